"""GGUF: one file for llama.cpp, with tokenizer, chat template and end-of-text token; and a Modelfile for ollama.

A reader in plain numpy reads the file back and compares the logits. If xllamacpp is installed, llama.cpp itself also
answers the run's prompts. Classifiers are not supported: llama.cpp's GPT-2 has no classification head.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.checkpoints.convert import gpt_tensors
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import hugging_face_config
from finetune.console import escape_markdown
from finetune.errors import RunError
from finetune.export.exportable import (
    TOLERANCE,
    Exportable,
    Exported,
    draft_of,
    random_ids,
    refuse,
    refuse_own_head,
    write_readme,
)
from finetune.export.extras import require
from finetune.export.llama_cpp import compare_answers, has_llama_cpp
from finetune.export.plain_reader import PlainReader
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.tokenizer import END_OF_TEXT

MERGED = True
QUANTIZED = ("f16", "q8_0", "q4_0")
FILE = "model.gguf"
NAMES = {  # name of a tensor in a block: Hugging Face's -> GGUF's
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OUTER = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
OLLAMA = {
    "max_new_tokens": "num_predict",
    "temperature": "temperature",
    "top_k": "top_k",
}  # our decoding settings -> ollama's
NORMAL, CONTROL = 1, 3  # llama.cpp's token types
BLOCK = 32  # values that share a scale in q8_0 and q4_0


def write(
    thing: Exportable, directory: Path, base: WeightsSource | None = None, quantize: str | None = None
) -> Exported:
    """Write the directory completely or not at all. base: unused.

    Raises RunError if a package is missing or the model is not a language model, and WeightsError if a logit differs.
    """
    require("gguf", "gguf")
    refuse_own_head(thing, "GGUF")
    if not isinstance(thing.model, GPT):
        raise RunError(
            f"{thing.name}: {'a classifier' if isinstance(thing.model, Classifier) else thing.model.kind}, which this format "
            "does not support",
            known="GPT-2 language models",
            do="Export a classifier with --format onnx, another model with --format hf.",
        )
    if quantize in ("q8_0", "q4_0") and thing.model.config.width % BLOCK:
        raise RunError(
            f"{thing.name}: {quantize} needs a width that is a multiple of {BLOCK}",
            got=str(thing.model.config.width),
            do="Export it in f32 or with --quantize f16.",
        )
    with draft_of(directory) as draft:
        draft.mkdir(parents=True)
        _write_file(draft / FILE, thing, thing.model, quantize)
        exported = compare(draft / FILE, thing, thing.model, quantize)
        (draft / "Modelfile").write_text(_modelfile(thing, thing.model), encoding="utf-8", newline="\n")
        write_readme(draft, thing, _readme(thing, exported), library="gguf")
    return exported


def compare(path: Path, thing: Exportable, model: GPT, quantize: str | None) -> Exported:
    """Compare the logits of the written file, and llama.cpp's answers if it is installed."""
    ids = random_ids(model.config)
    reader = PlainReader(path.parent, read_gguf(path), hugging_face_config(model, thing.tokenizer))
    with torch.inference_mode():
        ours = model.cpu()(ids).numpy()
    theirs = reader.next_token_logits(ids.numpy())
    difference = float(np.abs(ours - theirs).max())
    if reader.odd or (quantize is None and not difference <= TOLERANCE):
        raise refuse(
            PlainReader.name,
            f"largest logit difference {difference:.2e}, unexpected or missing tensors: {reader.odd or 'none'}",
        )
    likeliest = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    summary = f"{PlainReader.name} gives the same logits, largest difference {difference:.1e}"
    if quantize:
        summary = f"{quantize}: largest logit difference {difference:.1e}, the same likeliest token at {likeliest:.1%}"
    if not has_llama_cpp():
        return Exported(True, f"{summary}; xllamacpp is not installed", difference)
    same, total = compare_answers(path, thing, model)
    if quantize is None and total and same < total / 2:  # near ties may differ; a wrong prompt makes most differ
        raise refuse("llama.cpp", f"{same} of {total} greedy answers equal")
    return Exported(True, f"{summary}; llama.cpp generates the same text for {same} of {total} prompts", difference)


def read_gguf(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file in fp32, with the names and orientation of Hugging Face's layout."""
    import gguf

    theirs = {own: name for name, own in NAMES.items()}
    outer, found = {own: name for name, own in OUTER.items()}, {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(size) for size in reversed(tensor.shape)])
        first, *rest = tensor.name.split(".")
        if first == "blk":
            number, own, kind = rest
            name = f"h.{number}.{theirs.get(own, own)}.{kind}"
            values = values.T if values.ndim == 2 else values  # Conv1D stores input by output
        else:
            name = f"{outer.get(first, first)}.{rest[0]}"
        found[name] = values
    return found


class _Written(np.ndarray):
    """An array that is written with ``file.write``: numpy's ``tofile`` reports no error when the disk is full."""

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        fid.write(self)


def _write_file(path: Path, thing: Exportable, model: GPT, quantize: str | None) -> None:
    import gguf

    kinds = gguf.GGMLQuantizationType
    kind = {None: kinds.F32, "f16": kinds.F16, "q8_0": kinds.Q8_0, "q4_0": kinds.Q4_0}[quantize]
    config, writer = model.config, gguf.GGUFWriter(path, "gpt2")
    writer.add_name(thing.name)
    writer.add_file_type({None: 0, "f16": 1, "q8_0": 7, "q4_0": 2}[quantize])
    if quantize in ("q8_0", "q4_0"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(4 * config.width)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, thing)
    for name, tensor in gpt_tensors(model).items():
        values, own = tensor.numpy(), _gguf_name(name)
        if own.startswith("blk") and values.ndim == 2:
            values = np.ascontiguousarray(values.T)
        matrix = values.ndim == 2 and not own.startswith("position")
        stored = kind if matrix else kinds.F32
        if stored == kinds.Q4_0 and own.startswith("token"):
            stored = kinds.Q8_0  # the output matrix as well, where 4 bits cost the most
        writer.add_tensor(own, gguf.quants.quantize(values, stored).view(_Written), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, thing: Exportable) -> None:
    tokenizer = thing.tokenizer
    vocab: dict[str, int] = json.loads(tokenizer.vocab_json)
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = [line for line in tokenizer.merges_txt.split("\n") if line and not line.startswith("#version")]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in tokenizer.special_tokens else NORMAL for token in tokens])
    if merges:
        writer.add_token_merges(merges)
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(tokenizer.end_of_text)
    writer.add_add_bos_token(False)
    if template := thing.tokenizer_settings.get("chat_template"):
        writer.add_chat_template(template)


def _gguf_name(name: str) -> str:
    bare = name.removeprefix("transformer.")
    if not bare.startswith("h."):
        first, kind = bare.split(".")
        return f"{OUTER[first]}.{kind}"
    _, number, *middle, kind = bare.split(".")
    return f"blk.{number}.{NAMES['.'.join(middle)]}.{kind}"


def _modelfile(thing: Exportable, model: GPT) -> str:
    """The Modelfile with which ollama uses the run's prompt and stop strings. It has no escapes: newlines stay literal.

    Source: ollama/ollama, docs/modelfile.md and parser/parser.go.
    """
    stops = [END_OF_TEXT, *thing.stop]
    lines = [f"FROM ./{FILE}"]
    if thing.ollama_template:
        lines.append(f'TEMPLATE """{thing.ollama_template}"""')
    lines += [f'PARAMETER stop """{stop}"""' for stop in stops]
    written = {"temperature": 0} | thing.generation
    lines += [f"PARAMETER {theirs} {written[own]}" for own, theirs in OLLAMA.items() if own in written]
    lines.append(f"PARAMETER num_ctx {model.config.context}")
    return "\n".join(lines) + "\n"


def _readme(thing: Exportable, exported: Exported) -> str:
    command, prompt = f'llama-completion -m {FILE} -p "Once upon a time"', "The model continues a text."
    if "chat_template" in thing.tokenizer_settings:
        command, prompt = (
            f"llama-cli -m {FILE} --jinja --temp 0",
            "The chat template in the file is the prompt format of the training.",
        )
    return "\n".join(
        [
            f"# {escape_markdown(thing.name)}",
            "",
            "A GPT-2 language model in GGUF, exported by gpt2-finetune.",
            "",
            f"- {exported.summary}",
            "",
            "## Use",
            "",
            f"    {command}",
            "",
            f"{prompt} For ollama there is a Modelfile, which has not been tested:",
            "",
            f"    ollama create {thing.name} -f Modelfile",
            "",
        ]
    )

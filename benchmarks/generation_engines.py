"""The engines that benchmarks/generation.py compares: the same GPT-2 in each, and the same call.

CTranslate2 and llama.cpp (through xllamacpp) are included if they can be imported.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from finetune.checkpoints.convert import load_gpt
from finetune.export import gguf
from finetune.export.exportable import Exportable
from finetune.models.compiled import CompiledGPT
from finetune.models.generate import Decoder, generate
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.packed import few_bits_decoder
from finetune.tokenizer import END_OF_TEXT, Tokenizer, byte_alphabet

Tokens = list[list[int]]
PLAIN, NOT_COMPILED = "transformers", "finetune, not compiled"


@dataclass
class Engine:
    """One engine. write: continues prompts of equal length by a number of tokens, and returns the new ones if the
    engine reports them."""

    name: str
    width: str  # type of its weights: fp32, fp16, bf16, int8, int4
    weight_bytes: float
    write: Callable[[Tokens, int], Tokens]

    @property
    def ours(self) -> bool:
        return self.name.startswith("finetune")


def tokenizer_of_pairs(size: int = 50257) -> Tokenizer:
    """A vocabulary of GPT-2's size that needs no download: the bytes, and pairs of them."""
    letters = list(byte_alphabet().values())
    pairs = [(a, b) for a in letters for b in letters][: size - len(letters) - 1]
    tokens = [*letters, *(a + b for a, b in pairs), END_OF_TEXT]
    merges = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in pairs)]) + "\n"
    return Tokenizer(json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False), merges)


def load_ours(folder: Path, layers: int) -> GPT:
    """Our model with the weights in a folder written by transformers."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        ours, _ = load_gpt(GPTConfig(layers=layers), shapes, file.get_tensor, str(folder))
    return ours.eval()


def engines(folder: Path, layers: int, batch: int, threads: int, widths: list[str]) -> Iterator[Engine]:
    """Every available engine of these widths, loaded."""
    if not folder.exists():
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers)).save_pretrained(folder)
    ours = load_ours(folder, layers)
    matrices = sum(own.numel() for own in ours.parameters() if own.dim() == 2) - ours.position_embedding.weight.numel()
    for width, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if width not in widths:
            continue
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=kind).eval()
        size = matrices * kind.itemsize
        yield Engine(PLAIN, width, size, _transformers(theirs))
        model = load_ours(folder, layers).to(kind)
        yield Engine(NOT_COMPILED, width, size, _not_compiled(model))
        yield Engine("finetune", width, size, _decoder(CompiledGPT(model)))
    if "int8" in widths:
        yield Engine("finetune, int8", "int8", matrices, _decoder(few_bits_decoder(ours, "int8")))
    if "int4" in widths:
        head = ours.output.numel()  # stays int8, as Q4_0 files have it in Q8_0
        own = few_bits_decoder(ours, "int4")
        yield Engine("finetune, int4", "int4", (matrices - head) * 18 / 32 + head, _decoder(own))
    if find_spec("ctranslate2"):
        for width, name in (("fp32", "float32"), ("int8", "int8_float32")):
            if width in widths:
                size = matrices * (4 if width == "fp32" else 1)
                yield Engine(f"CTranslate2 {name}", width, size, _ctranslate2(folder, name, threads))
    if find_spec("xllamacpp") and find_spec("gguf"):
        for width, name, size, head_size in (
            ("fp16", "f16", 2.0, 2.0),
            ("int8", "q8_0", 34 / 32, 34 / 32),
            ("int4", "q4_0", 18 / 32, 34 / 32),
        ):
            if width in widths:
                run = _llama_cpp(folder.parent / f"{name}.gguf", ours, name, batch, threads)
                head = ours.output.numel()
                yield Engine(f"llama.cpp {name.upper()}", width, (matrices - head) * size + head * head_size, run)


def _transformers(model: Any) -> Callable[[Tokens, int], Tokens]:
    def write(prompts: Tokens, new: int) -> Tokens:
        ids = torch.tensor(prompts)
        asked = {"max_new_tokens": new, "do_sample": False, "use_cache": True, "eos_token_id": None, "pad_token_id": 0}
        return model.generate(ids, attention_mask=torch.ones_like(ids), **asked)[:, ids.shape[1] :].tolist()

    return write


def _not_compiled(model: GPT) -> Callable[[Tokens, int], Tokens]:
    return lambda prompts, new: model.generate(torch.tensor(prompts), new, temperature=0, compiled=False)[
        :, len(prompts[0]) :
    ].tolist()


def _decoder(decoder: Decoder[Any]) -> Callable[[Tokens, int], Tokens]:
    return lambda prompts, new: generate(decoder, torch.tensor(prompts), new, temperature=0)[
        :, len(prompts[0]) :
    ].tolist()


def _ctranslate2(folder: Path, kind: str, threads: int) -> Callable[[Tokens, int], Tokens]:
    """CTranslate2, converted by its own GPT2Loader; tokens are named by their numbers."""
    import ctranslate2
    from ctranslate2.converters.transformers import GPT2Loader

    out = folder.parent / f"ctranslate2-{kind}"
    if not out.exists():
        model = transformers.GPT2LMHeadModel.from_pretrained(folder)
        loader = GPT2Loader()
        with torch.no_grad():
            spec = loader.get_model_spec(model)
        spec.register_vocabulary([*map(str, range(50256)), "<|endoftext|>"])
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "<|endoftext|>"
        spec.validate()
        spec.optimize(quantization=None if kind == "float32" else kind)
        out.mkdir()
        spec.save(str(out))
    generator = ctranslate2.Generator(str(out), device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads)

    def write(prompts: Tokens, new: int) -> Tokens:
        found = generator.generate_batch(
            [list(map(str, own)) for own in prompts],
            max_length=new,
            min_length=new,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            return_scores=False,
            max_batch_size=0,
        )
        return [own.sequences_ids[0] for own in found]

    return write


def _llama_cpp(path: Path, model: GPT, kind: str, batch: int, threads: int) -> Callable[[Tokens, int], Tokens]:
    """llama.cpp on our GGUF, with a slot per sequence."""
    import xllamacpp

    if not path.exists():
        thing = Exportable("benchmark", model, tokenizer_of_pairs(), readme=lambda _: "")
        gguf._write_file(path, thing, model, kind)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = 1024 * batch, batch
    params.warmup, params.verbosity = False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def one(prompt: list[int], new: int) -> list[int]:
        asked = {"prompt": prompt, "temperature": 0.0, "top_k": 1, "n_predict": new, "cache_prompt": False}
        used = server.handle_completions(asked | {"ignore_eos": True})["usage"]
        assert used["completion_tokens"] == new and used["prompt_tokens"] == len(prompt), used
        return []  # it returns text, not tokens

    def write(prompts: Tokens, new: int) -> Tokens:
        if len(prompts) == 1:
            return [one(prompts[0], new)]
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: one(prompt, new), prompts))

    return write

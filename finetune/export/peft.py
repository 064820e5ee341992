"""PEFT's layout: only the adapters and the head, for users who already have the base weights."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.adapters.lora import lora_layers
from finetune.checkpoints.convert import gpt_tensors
from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD, PREFIX, expand
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import LoadedCheckpoint, gpt_of, hugging_face_config, tensor_files
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
from finetune.export.hf import PLAIN_TEXTS, configs
from finetune.export.plain_reader import PlainReader, read_tensors, with_adapter
from finetune.export.readers import has_transformers, padded_logits
from finetune.files import write_json, write_tensors
from finetune.hub.registry import weights_registry
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

MERGED = False
WRAPPED = "base_model.model."  # PEFT's prefix for the names of the wrapped model


def write(thing: Exportable, directory: Path, base: WeightsSource) -> Exported:
    """Write the adapters and the base's tokenizer, compared with peft, or with plain numpy if peft is missing.

    Raises RunError for a model without adapters, and WeightsError if a logit differs by more than the tolerance. After
    an error, an earlier export is still in place.
    """
    if not lora_layers(thing.model):
        raise RunError(
            f"{thing.name}: has no adapters", known="a run with method lora", do="Export it with --format hf."
        )
    refuse_own_head(thing, "PEFT's layout")
    model = thing.model
    body = model.body if isinstance(model, Classifier) else model
    if not isinstance(body, GPT) or not isinstance(model, GPT | Classifier):
        raise RunError(
            f"{thing.name}: {body.kind}, which this format does not support",
            known="GPT-2",
            do="Export it with --format hf, which merges the adapters.",
        )
    with draft_of(directory) as draft:
        draft.mkdir(parents=True)
        write_tensors(draft / "adapter_model.safetensors", adapter_tensors(model), {"format": "pt"})
        config = adapter_config(model, base)
        write_json(draft / "adapter_config.json", config)
        thing.tokenizer.save(draft)
        for name, text in (configs(thing) | thing.files).items():
            (draft / name).write_text(text, encoding="utf-8", newline="\n")
        loaded = base.load()
        exported = (compare_with_peft if has_peft() else compare_plainly)(draft, thing, base, loaded)
        readme = _readme(thing.name, config, base.name, thing.labels, loaded.tokenizer.end_of_text, exported)
        write_readme(draft, thing, readme, library="peft", relation="adapter")
    return exported


def adapter_tensors(model: Classifier | GPT) -> dict[str, Tensor]:
    """The tensors that LoRA trained, under PEFT's names. A is (R, I) and B is (O, R) in both; only the base differs."""
    gpt, tensors = gpt_of(model), {}
    theirs = _layer_names(gpt)
    for name, layer in lora_layers(gpt).items():
        for kind in ("lora_A", "lora_B"):
            tensors[f"{WRAPPED}{PREFIX}{theirs[name]}.{kind}.weight"] = getattr(layer, kind)
    if isinstance(model, Classifier):
        tensors[WRAPPED + CLASSIFIER_HEAD] = model.head.weight
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def adapter_config(model: Classifier | GPT, base: WeightsSource) -> dict:
    """The content of ``adapter_config.json``; PEFT silently uses a default for every missing key."""
    gpt = gpt_of(model)
    layers = lora_layers(gpt)
    layer = next(iter(layers.values()))
    row = weights_registry().get(base.name) if base.pinned else None
    classifies = isinstance(model, Classifier)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifies else "CAUSAL_LM",
        "base_model_name_or_path": row.repo if row else base.directory.resolve().as_posix(),
        "revision": row.revision if row else None,
        "r": layer.rank,
        "lora_alpha": layer.alpha,
        "lora_dropout": layer.drop.p,
        "target_modules": sorted(_layer_names(gpt)[name] for name in layers),
        "modules_to_save": [CLASSIFIER_HEAD.removesuffix(".weight")] if classifies else None,
        "fan_in_fan_out": True,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def has_peft() -> bool:
    """Whether peft is installed, and transformers with it."""
    return find_spec("peft") is not None and has_transformers()


def compare_with_peft(directory: Path, thing: Exportable, base: WeightsSource, loaded: LoadedCheckpoint) -> Exported:
    """Load the adapter onto transformers' model of the base weights and compare logits, a classifier's on its texts."""
    from peft import PeftModel
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    model, gpt = thing.model, loaded.gpt
    assert isinstance(model, GPT | Classifier), "other models are refused"
    config = GPT2Config(**hugging_face_config(gpt, loaded.tokenizer))
    if isinstance(model, Classifier):
        config.num_labels = model.head.out_features
    theirs: Any = (GPT2ForSequenceClassification if isinstance(model, Classifier) else GPT2LMHeadModel)(config)
    theirs.load_state_dict(gpt_tensors(gpt), strict=False)
    with warnings.catch_warnings(
        action="ignore", category=FutureWarning
    ):  # peft calls deprecated functions of transformers
        theirs = PeftModel.from_pretrained(theirs, directory).eval()
    if isinstance(model, Classifier):
        ids = encode(loaded.tokenizer, thing.texts, thing.max_length)
        other = padded_logits(theirs, ids, loaded.tokenizer.end_of_text)
        difference = np.abs(predict_logits(model, ids) - other).max()
    else:
        tokens = random_ids(gpt.config)
        with torch.inference_mode():
            difference = (model(tokens) - theirs(tokens).logits).abs().max()
    if not difference <= TOLERANCE:
        raise refuse("peft", f"largest logit difference {difference:.2e}")
    return Exported(True, f"peft gives the same logits, largest difference {difference:.1e}", float(difference))


def compare_plainly(directory: Path, thing: Exportable, base: WeightsSource, loaded: LoadedCheckpoint) -> Exported:
    """As ``compare_with_peft`` in plain numpy: the adapter is merged into the matrices of the base's files."""
    model, tensors = thing.model, dict[str, np.ndarray]()
    assert isinstance(model, GPT | Classifier), "other models are refused"
    for path in tensor_files(base.directory):
        tensors |= read_tensors(path)
    try:
        merged = with_adapter(tensors, directory)
        reader = PlainReader(directory, merged, hugging_face_config(loaded.gpt, loaded.tokenizer))
        if isinstance(model, Classifier):
            ids = encode(loaded.tokenizer, thing.texts[:PLAIN_TEXTS], thing.max_length)
            difference = float(np.abs(predict_logits(model, ids) - reader.classify(ids)).max())
        else:
            tokens = random_ids(loaded.gpt.config)
            with torch.inference_mode():
                difference = float(np.abs(model(tokens).numpy() - reader.next_token_logits(tokens.numpy())).max())
    except (KeyError, ValueError) as error:
        raise refuse(PlainReader.name, str(error)) from error
    if not difference <= TOLERANCE:
        raise refuse(PlainReader.name, f"largest logit difference {difference:.2e}")
    said = f"{PlainReader.name} gives the same logits, largest difference {difference:.1e}; peft is not installed"
    return Exported(True, said, difference)


def _layer_names(gpt: GPT) -> dict[str, str]:
    """Hugging Face's name of each linear layer, by ours: ``h.3.attn.c_attn``."""
    return {
        ours.removesuffix(".weight"): theirs.removesuffix(".weight")
        for theirs, ours, transposed in expand(gpt.config.layers)
        if transposed
    }


def _readme(name: str, config: dict, base: str, labels: list[str], end: int, exported: Exported) -> str:
    where, revision = config["base_model_name_or_path"], config["revision"]
    arguments = "dtype=torch.float32" + (f', revision="{revision}"' if revision else "")
    if labels:
        arguments += f", num_labels={len(labels)}, pad_token_id={end},\n        id2label={dict(enumerate(labels))}"
    kind = "GPT2ForSequenceClassification" if labels else "GPT2LMHeadModel"
    copy = f"give your own copy of {escape_markdown(base)}"
    here = "" if revision else f"\nThe base is a directory on the machine where this was exported; elsewhere, {copy}.\n"
    return "\n".join(
        [
            f"# {escape_markdown(name)}",
            "",
            f"LoRA adapters{' and a head' if labels else ''} for {escape_markdown(base)}, exported by gpt2-finetune.",
            "",
            f"- {exported.summary}",
            "",
            "## Use",
            here,
            "    import torch",
            "    from peft import PeftModel",
            f"    from transformers import AutoTokenizer, {kind}",
            f'    base = {kind}.from_pretrained("{where}",',
            f"        {arguments})",
            '    model = PeftModel.from_pretrained(base, "DIRECTORY").eval()',
            '    tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
            "",
        ]
    )

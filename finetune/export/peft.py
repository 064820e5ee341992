"""PEFT's layout: only the adapters and the head, for users who already have the base weights."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune.adapters.lora import lora_layers
from finetune.checkpoints.convert import gpt_tensors
from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD, PREFIX, expand
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import LoadedCheckpoint, gpt_of, hugging_face_config
from finetune.console import clean, escape_markdown
from finetune.errors import RunError
from finetune.export.exportable import TOLERANCE, Exportable, Exported, draft_of, random_ids, refuse
from finetune.export.hf import their_logits
from finetune.files import write_json
from finetune.hub.registry import weights_registry
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

MERGED = False
WRAPPED = "base_model.model."  # PEFT's prefix for the names of the wrapped model


def write(thing: Exportable, directory: Path, base: WeightsSource) -> Exported:
    """Write the adapters, and compare them in peft if it is installed.

    Raises RunError for a model without adapters, WeightsError if a logit differs by more than the tolerance. After an
    error an earlier export is still in place.
    """
    if not lora_layers(thing.model):
        raise RunError(
            f"{thing.name}: has no adapters", known="a run with method lora", do="Export it with --format hf."
        )
    if thing.layout is not None:
        raise RunError(
            f"{thing.name}: has a head of its own, which is not written in PEFT's layout",
            known="a classifier, a language model",
            do="Export it with --format hf, which holds its adapters merged.",
        )
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
        save_file(adapter_tensors(model), draft / "adapter_model.safetensors", metadata={"format": "pt"})
        config = adapter_config(model, base)
        write_json(draft / "adapter_config.json", config)
        loaded = base.load()
        exported = compare_with_peft(draft, thing, loaded)
        readme = _readme(thing.name, config, thing.labels, loaded.tokenizer.end_of_text, exported)
        (draft / "README.md").write_text(clean(readme), encoding="utf-8", newline="\n")
    return exported


def adapter_tensors(model: Classifier | GPT) -> dict[str, Tensor]:
    """The tensors that LoRA trained, under PEFT's names. As here, A is (R, I) and B is (O, R); only the base differs."""
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
        "base_model_name_or_path": row.repo if row else base.name,
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


def compare_with_peft(directory: Path, thing: Exportable, base: LoadedCheckpoint) -> Exported:
    """Load the adapters onto transformers' model of the base weights and compare logits; a classifier's on its texts."""
    try:
        from peft import PeftModel
        from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
    except ImportError:
        return Exported(False, "written; not compared, peft is not installed")
    model, gpt = thing.model, base.gpt
    assert isinstance(model, GPT | Classifier), "other models are refused"
    config = GPT2Config(**hugging_face_config(gpt, base.tokenizer))
    if isinstance(model, Classifier):
        config.num_labels = model.head.out_features
    theirs: Any = (GPT2ForSequenceClassification if isinstance(model, Classifier) else GPT2LMHeadModel)(config)
    theirs.load_state_dict(gpt_tensors(gpt), strict=False)
    with warnings.catch_warnings(
        action="ignore", category=FutureWarning
    ):  # peft calls deprecated functions of transformers
        theirs = PeftModel.from_pretrained(theirs, directory).eval()
    if isinstance(model, Classifier):
        ids = encode(base.tokenizer, thing.texts, thing.max_length)
        difference = np.abs(predict_logits(model, ids) - their_logits(theirs, ids, base.tokenizer.end_of_text)).max()
    else:
        tokens = random_ids(gpt.config)
        with torch.inference_mode():
            difference = (model(tokens) - theirs(tokens).logits).abs().max()
    if not difference <= TOLERANCE:
        raise refuse("peft", f"largest logit difference {difference:.2e}")
    return Exported(True, f"peft gives the same logits, largest difference {difference:.1e}", float(difference))


def _layer_names(gpt: GPT) -> dict[str, str]:
    """Hugging Face's name of each linear layer, by ours: ``h.3.attn.c_attn``."""
    return {
        ours.removesuffix(".weight"): theirs.removesuffix(".weight")
        for theirs, ours, transposed in expand(gpt.config.layers)
        if transposed
    }


def _readme(name: str, config: dict, labels: list[str], end: int, exported: Exported) -> str:
    where = config["base_model_name_or_path"]
    arguments = f', revision="{config["revision"]}"' if config["revision"] else ""
    if labels:
        arguments += f", num_labels={len(labels)}, pad_token_id={end},\n        id2label={dict(enumerate(labels))}"
    kind = "GPT2ForSequenceClassification" if labels else "GPT2LMHeadModel"
    return "\n".join(
        [
            f"# {escape_markdown(name)}",
            "",
            f"LoRA adapters{' and a head' if labels else ''} by gpt2-finetune, for {escape_markdown(where)}.",
            "",
            f"- {exported.summary}",
            "",
            "## Use",
            "",
            "    from peft import PeftModel",
            f"    from transformers import {kind}",
            f'    base = {kind}.from_pretrained("{where}"{arguments})',
            '    model = PeftModel.from_pretrained(base, "DIRECTORY")',
            "",
        ]
    )

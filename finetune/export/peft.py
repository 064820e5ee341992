"""PEFT's layout: the adapters and the head alone, for a reader who has the base already."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune.adapters.lora import lora_layers
from finetune.checkpoints.convert import gpt_tensors
from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD, PREFIX, expand
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import LoadedCheckpoint, hugging_face_config
from finetune.errors import RunError, WeightsError
from finetune.export.hf import TOLERANCE, random_ids, their_logits
from finetune.files import replace_directory, write_json
from finetune.hub.registry import weights_registry
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier, NextToken
from finetune.run import Run
from finetune.training.predict import encode, predict_logits

WRAPPED = "base_model.model."  # before every name of the model that PEFT wraps


def write_adapter(run: Run, model: Classifier | NextToken, base: WeightsSource, texts: list[str]) -> dict:
    """Write ``export/peft`` and, where peft is installed, compare it with the model on `texts`. Returns the figures.

    texts: for a classifier. Raises RunError for a model without adapters, WeightsError if a logit differs by more than
    the tolerance; an older export then stays in its place.
    """
    if not lora_layers(model):
        raise RunError(f"{run.directory}: has no adapters", got=f"method {run.result('train')['method']}", known="lora",
                       do="Export it with --format hf.")
    if not hasattr(model, "gpt"):
        raise RunError(f"{run.directory}: an encoder-decoder, which is no model that PEFT knows", known="GPT-2",
                       do="Export it with --format hf, which holds its adapters merged.")
    prepared, draft = run.result("prepare"), run.path("export", ".peft-draft")
    try:
        draft.mkdir(parents=True)
        save_file(adapter_tensors(model), draft / "adapter_model.safetensors", metadata={"format": "pt"})
        config = adapter_config(model, base)
        write_json(draft / "adapter_config.json", config)
        loaded = base.load()
        ids = encode(loaded.tokenizer, texts, prepared["max_length"]) if isinstance(model, Classifier) else []
        checked = compare_with_peft(draft, model, loaded, ids)
        readme = _readme(run.name, config, prepared.get("labels"), loaded.tokenizer.end_of_text, checked)
        (draft / "README.md").write_text(readme, encoding="utf-8", newline="\n")
        replace_directory(run.path("export", "peft"), draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return checked


def adapter_tensors(model: Classifier | NextToken) -> dict[str, Tensor]:
    """What LoRA trained, under PEFT's names. A is (R, I) and B is (O, R) there, too, though the base is transposed."""
    theirs, tensors = _layer_names(model.gpt), {}
    for name, layer in lora_layers(model.gpt).items():
        for kind in ("lora_A", "lora_B"):
            tensors[f"{WRAPPED}{PREFIX}{theirs[name]}.{kind}.weight"] = getattr(layer, kind)
    if isinstance(model, Classifier):
        tensors[WRAPPED + CLASSIFIER_HEAD] = model.head.weight
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def adapter_config(model: Classifier | NextToken, base: WeightsSource) -> dict:
    """What PEFT needs in ``adapter_config.json``; whatever is left out there is silently a default."""
    layers = lora_layers(model.gpt)
    layer = next(iter(layers.values()))
    row = weights_registry().get(base.name) if base.pinned else None
    classifies = isinstance(model, Classifier)
    return {"peft_type": "LORA", "task_type": "SEQ_CLS" if classifies else "CAUSAL_LM",
            "base_model_name_or_path": row.repo if row else base.name, "revision": row.revision if row else None,
            "r": layer.rank, "lora_alpha": layer.alpha, "lora_dropout": layer.drop.p,
            "target_modules": sorted(_layer_names(model.gpt)[name] for name in layers),
            "modules_to_save": [CLASSIFIER_HEAD.removesuffix(".weight")] if classifies else None,
            "fan_in_fan_out": True, "bias": "none", "use_rslora": False, "use_dora": False, "inference_mode": True}


def compare_with_peft(directory: Path, model: Classifier | NextToken, base: LoadedCheckpoint,
                      ids: list[list[int]]) -> dict:
    """Put the directory on transformers' model of the base weights and compare logits, of `ids` for a classifier."""
    try:
        from peft import PeftModel
        from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
    except ImportError:
        return {"compared": False, "summary": "written; not compared, peft is not installed"}
    gpt = getattr(base.model, "gpt", base.model)
    config = GPT2Config(**hugging_face_config(gpt, base.tokenizer))
    if isinstance(model, Classifier):
        config.num_labels = model.head.out_features
    theirs = (GPT2ForSequenceClassification if isinstance(model, Classifier) else GPT2LMHeadModel)(config)
    theirs.load_state_dict(gpt_tensors(gpt), strict=False)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of transformers, for what peft asks it
        theirs = PeftModel.from_pretrained(theirs, directory).eval()
    if isinstance(model, Classifier):
        difference = np.abs(predict_logits(model, ids) - their_logits(theirs, ids, base.tokenizer.end_of_text)).max()
    else:
        tokens = random_ids(gpt.config)
        with torch.inference_mode():
            difference = (model.gpt(tokens) - theirs(tokens).logits).abs().max()
    if not difference <= TOLERANCE:
        raise WeightsError("peft reads the export differently", got=f"largest logit difference {difference:.2e}",
                           do="This is a fault of ours or of that version of peft: please report it.")
    return {"compared": True, "max_logit_difference": float(difference),
            "summary": f"peft gives the same logits, largest difference {difference:.1e}"}


def _layer_names(gpt: GPT) -> dict[str, str]:
    """Hugging Face's name of each linear layer, by ours: ``h.3.attn.c_attn``."""
    return {ours.removesuffix(".weight"): theirs.removesuffix(".weight")
            for theirs, ours, transposed in expand(gpt.config.layers) if transposed}


def _readme(name: str, config: dict, labels: list[str] | None, end: int, checked: dict) -> str:
    where = config["base_model_name_or_path"]
    arguments = f', revision="{config["revision"]}"' if config["revision"] else ""
    if labels:
        arguments += f", num_labels={len(labels)}, pad_token_id={end},\n        id2label={dict(enumerate(labels))}"
    kind = "GPT2ForSequenceClassification" if labels else "GPT2LMHeadModel"
    return "\n".join([
        f"# {name}", "", f"LoRA adapters{' and a head' if labels else ''} by gpt2-finetune, for {where}.", "",
        f"- {checked['summary']}", "", "## Use", "",
        "    from peft import PeftModel", f"    from transformers import {kind}",
        f'    base = {kind}.from_pretrained("{where}"{arguments})',
        '    model = PeftModel.from_pretrained(base, "DIRECTORY")', ""])

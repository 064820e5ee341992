"""Read adapters in PEFT's layout, from here or elsewhere, account for every tensor, and merge them into a GPT.

Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA); Kalajdzievski 2023, arXiv:2312.03732 (rank-stabilised: alpha over the
root of the rank); Liu et al. 2024, arXiv:2402.09353 (DoRA). Files are untrusted, as in store.py. Shape letters: I
inputs, O outputs, R rank, K classes.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from finetune.checkpoints.convert import finite
from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD, PREFIX, TIED_HEAD, expand
from finetune.checkpoints.store import PICKLES, read_header, read_object, refuse_damaged
from finetune.errors import WeightsError, listed
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WRAPPED = "base_model.model."  # prefix of every name of the model that PEFT wraps
PATTERN_LIMIT = 200  # maximum characters of a regular expression in a config
RANK_LIMIT = 1 << 14
READ = {  # settings that this module implements
    "peft_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "bias",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
}
WITHOUT_EFFECT = {  # settings without effect on a trained adapter's output
    "task_type",
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
    "runtime_config",
}
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that also change the base weights


@dataclass(frozen=True)
class Update:
    """An adapter's update of a linear layer: A (R, I), B (O, R), their scale, and DoRA's magnitude (O,)."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    def merged(self, weight: Tensor) -> Tensor:
        """The layer's weight (O, I) with the update."""
        changed = weight + self.up @ self.down * self.scale
        if self.magnitude is None:
            return changed
        return self.magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Adapter:
    """An adapter, under our names of a GPT's tensors."""

    directory: Path
    updates: dict[str, Update]  # by the name of a linear layer's weight
    saved: dict[str, Tensor]  # whole tensors that replace those of the base
    head: Tensor | None  # (K, C)

    def parameters(self, gpt: GPT) -> dict[str, Tensor]:
        """The new values of the GPT's parameters that this adapter changes; the GPT itself is not modified."""
        own = dict(gpt.named_parameters())
        found = {name: tensor.to(own[name]) for name, tensor in self.saved.items()}
        with torch.no_grad():
            for name, update in self.updates.items():
                found[name] = update.merged(found.get(name, own[name].detach()))
        return found


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter rather than a model."""
    return (Path(directory) / CONFIG).is_file()


def base_of(directory: Path) -> tuple[str, str | None]:
    """The name or path of an adapter's base weights, and their revision. Raises WeightsError."""
    config = read_object(Path(directory) / CONFIG)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise WeightsError(f"{directory}: {CONFIG} does not name its base weights", got=repr(base))
    return base, revision if isinstance(revision, str) else None


def read_adapter(directory: Path, gpt: GPT) -> Adapter:
    """Read an adapter for this GPT. Raises WeightsError for an unsupported setting or tensor."""
    directory = Path(directory)
    refuse_damaged(directory)
    config = read_object(directory / CONFIG)
    _check_config(config, directory / CONFIG)
    path = directory / WEIGHTS
    if not path.is_file():
        pickles = sorted(file.name for file in directory.glob("*") if file.suffix in PICKLES)
        raise WeightsError(
            f"{directory}: no {WEIGHTS}", got=", ".join(pickles[:3]) or "no tensors", known="safetensors, never pickles"
        )
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: finite(file.get_tensor(name), name, directory.name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise WeightsError(f"{path}: the tensors cannot be read", got=str(error)) from error
    return _assemble(directory, config, tensors, gpt)


def _check_config(config: dict[str, Any], path: Path) -> None:
    """Raise WeightsError for a setting that affects the result and is not implemented here."""
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{path}: peft_type is not supported", got=repr(config.get("peft_type")), known="'LORA'")
    odd = [f"{key}={value!r}" for key, value in config.items() if key not in READ | WITHOUT_EFFECT and value]
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        odd.append(f"init_lora_weights={start!r}, which changes the base's weights")
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        odd.append(f"bias={config['bias']!r}")
    if odd:
        raise WeightsError(
            f"{path}: settings that are not supported here",
            got=listed(odd),
            known="rank and alpha patterns, rslora, DoRA, bias, modules_to_save",
            do="Merge it where it was made (peft's merge_and_unload, then save_pretrained) and give that directory.",
        )
    for key in ("lora_alpha", "r"):
        value = config.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= RANK_LIMIT:
            raise WeightsError(f"{path}: {key} is out of range", got=repr(value)[:80], known=f"up to {RANK_LIMIT}")


def _assemble(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor], gpt: GPT) -> Adapter:
    """Assign every tensor. Raises WeightsError naming those that are unexpected, and those that are missing."""
    rows = {theirs: (ours, transposed) for theirs, ours, transposed in expand(gpt.config.layers)}
    layers = {theirs.removesuffix(".weight"): ours for theirs, (ours, transposed) in rows.items() if transposed}
    shapes = {name: tuple(parameter.shape) for name, parameter in gpt.named_parameters()}
    own = {name.removeprefix(WRAPPED).removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    targets = [layer for layer in layers if _is_target(config, PREFIX + layer, directory)]
    updates, saved, problems, head = {}, {}, [], None
    if not targets:
        problems.append(f"target_modules {config.get('target_modules')!r} match no layer of a GPT-2")
    for layer in targets:
        parts = [f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"]
        if config.get("use_dora"):
            parts.append(f"{layer}.lora_magnitude_vector")
            if f"{parts[2]}.weight" in own:
                own[parts[2]] = own.pop(f"{parts[2]}.weight")
        missing = [part for part in parts if part not in own]
        if missing:
            problems += [f"missing {part}" for part in missing]
            continue
        down, up, *magnitude = (own.pop(part) for part in parts)
        out, into = shapes[layers[layer]]
        if down.dim() != 2 or down.shape[1] != into or tuple(up.shape) != (out, down.shape[0]):
            problems.append(
                f"{layer}: A is {tuple(down.shape)} and B {tuple(up.shape)}, expected (r, {into}), ({out}, r)"
            )
            continue
        rank, alpha = down.shape[0], _of_pattern(config, "alpha_pattern", PREFIX + layer, config.get("lora_alpha", 8))
        wanted = _of_pattern(config, "rank_pattern", PREFIX + layer, config.get("r", 8))
        if rank != wanted:
            problems.append(f"{layer}: A has rank {rank}, and the config says {wanted}")
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        updates[layers[layer]] = Update(down, up, scale, magnitude[0].flatten() if magnitude else None)
    for name, tensor in own.items():
        place = name.replace(".base_layer.", ".")
        if place == CLASSIFIER_HEAD:
            head = tensor
            if tensor.dim() != 2 or tensor.shape[1] != gpt.config.width:
                problems.append(f"{place} is {tuple(tensor.shape)}, expected (classes, {gpt.config.width})")
        elif place in rows:
            ours, transposed = rows[place]
            saved[ours] = tensor.T.contiguous() if transposed else tensor
            if tuple(saved[ours].shape) != shapes[ours]:
                problems.append(f"{name} is {tuple(tensor.shape)}")
        elif place != TIED_HEAD:
            problems.append(f"unexpected {name}")
    if TIED_HEAD in own:
        output = saved.get("token_embedding.weight", gpt.token_embedding.weight.detach())
        if not torch.equal(own[TIED_HEAD], output.float()):
            problems.append(f"{TIED_HEAD} is not the token embedding, and GPT-2 ties the two")
    if config.get("modules_to_save") and not (saved or head is not None or TIED_HEAD in own):
        problems.append(f"missing tensors that modules_to_save names: {config['modules_to_save']!r}")
    if problems:
        raise WeightsError(f"{directory}: does not fit these weights", got=listed(problems, separator="; "))
    return Adapter(directory, updates, saved, head)


def _is_target(config: dict[str, Any], name: str, directory: Path) -> bool:
    """Whether an adapter has an update for this layer, by PEFT's own rules."""
    named, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _matches(excluded, name, directory):
        return False
    if named is None:
        named = ["c_attn"]  # PEFT's own choice for GPT-2
    if named == "all-linear":
        return True
    if not _matches(named, name, directory):
        return False
    numbers = config.get("layers_to_transform")
    numbers = [numbers] if isinstance(numbers, int) else numbers
    return isinstance(named, str) or not numbers or int(name.split(".")[2]) in numbers


def _matches(named: Any, name: str, directory: Path) -> bool:
    if isinstance(named, str):
        return _fullmatch(named, name, directory)
    if not isinstance(named, list) or not all(isinstance(part, str) for part in named):
        raise WeightsError(f"{directory / CONFIG}: no list of modules", got=repr(named)[:80])
    return any(name == part or name.endswith(f".{part}") for part in named)


def _of_pattern(config: dict[str, Any], key: str, name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a layer's name, as PEFT's get_pattern_key."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict) or not all(type(value) in (int, float) for value in patterns.values()):
        raise WeightsError(f"{key} is not a table of numbers", got=repr(patterns)[:80])
    for pattern, value in patterns.items():
        if _fullmatch(rf"(.*\.)?({pattern})", name, Path(key)):
            return value
    return default


def _fullmatch(pattern: str, name: str, where: Path) -> bool:
    try:
        if len(pattern) > PATTERN_LIMIT:
            raise re.error("too long")
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise WeightsError(f"{where}: a pattern cannot be read", got=f"{pattern[:60]!r} ({error})") from error


class SwitchableAdapters:
    """One base in memory and several adapters for it; a switch copies only the tensors that differ and reads no file."""

    def __init__(self, gpt: GPT, directories: dict[str, Path]):
        self.gpt = gpt
        self.adapters = {name: read_adapter(directory, gpt) for name, directory in directories.items()}
        self._base: dict[str, Tensor] = {}  # base values of the parameters that the adapter in use changed

    @torch.no_grad()
    def use(self, name: str) -> GPT | Classifier:
        """The base with this adapter, as a classifier if it has a head. Earlier returned models change as well."""
        own, adapter = dict(self.gpt.named_parameters()), self.adapters[name]
        for changed, tensor in self._base.items():
            own[changed].copy_(tensor)
        new = adapter.parameters(self.gpt)
        self._base = {changed: own[changed].detach().clone() for changed in new}
        for changed, tensor in new.items():
            own[changed].copy_(tensor)
        if adapter.head is None:
            return self.gpt
        classifier = Classifier(self.gpt, len(adapter.head)).eval()
        classifier.head.weight.copy_(adapter.head)
        return classifier

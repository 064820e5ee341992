"""Atomic step checkpoints, so that a run killed at any moment resumes from the newest one.

A directory is written under a temporary name, with each file flushed and a manifest of sizes and hashes last, and then
renamed. Data order and randomness are pure functions of (seed, epoch, step, rank), so no RNG state is stored.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from finetune.checkpoints.store import read_header, read_tensor
from finetune.console import warn
from finetune.errors import RunError
from finetune.files import damage, sync_directory, write_json, write_manifest, write_tensors
from finetune.training.parallel import divided_as, free_gathered, whole


def step_directory(root: Path, step: int) -> Path:
    """``checkpoints/step-00000120``."""
    return root / f"step-{step:08d}"


def save_step(
    root: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict, writes: bool = True
) -> None:
    """Write one step checkpoint: trainable tensors, optimizer moments and `state` (JSON).

    The tensors of a sharded model are gathered one by one, so that any number of processes can resume from the
    checkpoint. All processes call this; one of them `writes`.
    """
    free_gathered(model)
    weights = _whole(((name, p) for name, p in model.named_parameters() if p.requires_grad), writes)
    moments = _whole(_moments(model, optimizers), writes)
    if not writes:
        return
    final = step_directory(root, step)
    temporary = root / f".tmp-step-{step:08d}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_tensors(temporary / "weights.safetensors", weights)
        write_tensors(temporary / "optimizer.safetensors", moments)
        write_json(temporary / "state.json", state)
        write_manifest(temporary)
        if final.exists():
            _remove(final)
        temporary.rename(final)
        sync_directory(root)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot save a checkpoint in {root}",
            got=str(error),
            do="Free some space, then run the same command: it resumes from the last checkpoint.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_weights(directory: Path, model: nn.Module) -> None:
    """Load a step checkpoint's weights into the model. Raises RunError if the names do not match."""
    free_gathered(model)
    path = directory / "weights.safetensors"
    names = read_header(path).keys()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if names != parameters.keys():
        raise RunError(
            f"{directory}: its tensors are not the ones that this method trains",
            got=", ".join(sorted(names ^ parameters.keys())[:4]),
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(divided_as(read_tensor(path, name), parameter))


def load_optimizers(directory: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Restore the optimizer moments of a step checkpoint."""
    moments = load_file(directory / "optimizer.safetensors")
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            keys = [key for key in moments if key.rpartition("/")[0] == names[parameter]]
            if keys:
                optimizer.state[parameter] = {
                    key.rpartition("/")[2]: divided_as(moments[key], parameter) for key in keys
                }


def newest(root: Path) -> Path | None:
    """The newest intact step checkpoint; warns about damaged ones, skips them and removes leftovers."""
    for leftover in [*root.glob(".tmp-*"), *root.glob(".trash-*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    damaged = []
    for directory in sorted(root.glob("step-*"), reverse=True):
        why = damage(directory)
        if not why:
            return directory
        damaged.append(f"{directory.name} ({why})")
        warn(f"{directory.name} is damaged ({why}); going back to the previous checkpoint")
    if damaged:
        raise RunError(
            f"{root}: no checkpoint can be used",
            got=", ".join(damaged),
            do="Train again with --from train, which deletes them.",
        )
    return None


def prune(root: Path, step: int, best: int | None) -> None:
    """Keep the checkpoint just saved, the previous one and the best. Newer ones were found damaged on resume."""
    directories = sorted(root.glob("step-*"))
    keep = [directory for directory in directories if directory <= step_directory(root, step)][-2:]
    for directory in directories:
        if directory not in keep and (best is None or directory != step_directory(root, best)):
            _remove(directory)


def _moments(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, torch.Tensor]]:
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, moments in optimizer.state.items():
            for key, value in moments.items():
                yield f"{names[parameter]}/{key}", value


def _whole(tensors: Iterable[tuple[str, torch.Tensor]], keep: bool) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, sharded ones gathered; empty in a process that does not `keep` them."""
    found = {}
    for name, tensor in tensors:
        gathered = whole(tensor.detach())
        if keep:
            found[name] = gathered.cpu().contiguous()
    return found


def _remove(directory: Path) -> None:
    trash = directory.with_name(f".trash-{directory.name}-{os.getpid()}")
    directory.rename(trash)  # readers stop seeing it at once, however long deletion takes
    shutil.rmtree(trash, ignore_errors=True)

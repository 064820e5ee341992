"""Resolve the name of weights to a local checkpoint directory."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.checkpoints.fallback import MINI, RANDOM_BYTES, SCRATCH
from finetune.checkpoints.layouts import load_directory
from finetune.checkpoints.peft import CONFIG as ADAPTER_CONFIG
from finetune.checkpoints.peft import WEIGHTS as ADAPTER_WEIGHTS
from finetune.checkpoints.peft import SwitchableAdapters, base_of, is_adapter
from finetune.checkpoints.store import PICKLES, LoadedCheckpoint
from finetune.config import nearest
from finetune.console import say, warn
from finetune.errors import FetchError, WeightsError, listed
from finetune.files import sha256_file
from finetune.hub.assets import asset
from finetune.hub.fetch import find_weights, get_hub_checkpoint, get_weights, hub_value, network_available
from finetune.hub.registry import WeightsRow, weights_registry
from finetune.models.bodies import Body
from finetune.models.gpt import GPTConfig
from finetune.models.heads import Classifier
from finetune.tokenizer import Tokenizer

AUTO = "gpt2"  # what `auto` resolves to if available


@dataclass(frozen=True)
class WeightsSource:
    """A checkpoint directory and a description of its origin."""

    name: str
    directory: Path
    config: GPTConfig | None  # None: use the directory's config.json
    source: str
    licence: str = ""
    pinned: bool = False  # whether the registry pins the hashes, so that the files cannot change
    adapter: Path | None = None  # an adapter's directory, merged when the weights are loaded

    def content(self) -> dict[str, str]:
        """The sha256 of every file that defines the model: weights, shape and tokenizer."""
        names = ("config.json", "vocab.json", "merges.txt", "tokenizer.json")
        files = [
            path for path in sorted(self.directory.iterdir()) if path.suffix == ".safetensors" or path.name in names
        ]
        if self.adapter is not None:
            files += [self.adapter / ADAPTER_CONFIG, self.adapter / ADAPTER_WEIGHTS]
        return {path.name: sha256_file(path) for path in files if path.is_file()}

    def load(self, dropout: float = 0.0) -> LoadedCheckpoint:
        """Read the model and the tokenizer. Raises WeightsError."""
        loaded = load_directory(self.directory, self.config, dropout)
        if self.adapter is None:
            return loaded
        model = SwitchableAdapters(loaded.gpt, {"": self.adapter}).use("")
        return LoadedCheckpoint(model, loaded.tokenizer, loaded.report)


def is_made_in_run(name: str) -> bool:
    """Whether this name stands for new weights that a run initialises itself."""
    return name in (RANDOM_BYTES, SCRATCH)


def resolve_auto(name: str) -> str:
    """`auto` as a name: GPT-2 124M if available, else the bundled checkpoint. Other names are unchanged."""
    if name != "auto":
        return name
    row = weights_registry()[AUTO]
    if find_weights(row):
        return AUTO
    if network_available():
        try:
            hub_value(row.name, row.repo, row.revision, "model.safetensors")
            return AUTO
        except FetchError as error:  # the hub answers but refuses the download
            warn(str(error))
    return MINI if _bundled().is_dir() else RANDOM_BYTES


def locate_weights(name: str, base: Path | None = None, fetch: bool = False) -> WeightsSource:
    """The checkpoint called `name`: a directory (or a run's), a registry row or a hub id, in this order.

    base: the run's directory for the fallback weights. fetch: download missing files and check every hash.
    Raises WeightsError or FetchError, listing the known names.
    """
    if is_made_in_run(name):
        if base is None:
            raise WeightsError(
                f"{name!r} weights are random and are created inside a run",
                known=f"weights with a name: {', '.join([*weights_registry(), MINI])}; or a directory or a run",
                do=f"For example: {MINI}, which is bundled.",
            )
        return WeightsSource(name, base, None, "random, seeded; nothing pretrained", pinned=True)
    path = Path(name).expanduser()
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that no file system takes
        inside = path / "export" / "hf" if (path / "recipe.json").exists() else path
        if not inside.is_dir():
            raise WeightsError(f"{path}: a run without exported weights", do="Finish the run first.")
        if is_adapter(inside):
            return _under_adapter(inside, fetch)
        return WeightsSource(path.name or name, inside, None, "a directory of the user's")
    if os.path.isfile(path) or path.suffix in (*PICKLES, ".safetensors"):
        why = "a pickle, which can run code when opened" if path.suffix in PICKLES else "a file"
        raise WeightsError(
            f"{name}: weights must be a directory in Hugging Face's layout",
            got=why,
            known="config.json, model.safetensors, vocab.json and merges.txt in one directory",
            do="Write one with transformers' save_pretrained(DIR), also from a pickle that you trust.",
        )
    rows = weights_registry()
    if name in rows:
        return _from_row(rows[name], fetch)
    if name == MINI:
        return WeightsSource(
            MINI, _bundled(), None, "a small GPT-2 of 6.9 M parameters, bundled with this project", "CC BY-SA 4.0"
        )
    around = path.parent.glob("*/recipe.json") if "/" in name and os.path.isdir(path.parent) else ()
    if runs := sorted(run.parent.name for run in around):
        raise WeightsError(
            f"{name}: no such run", known=listed(runs), do=nearest(path.name, runs) or f"See: ls {path.parent}"
        )
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return WeightsSource(name, get_hub_checkpoint(name), None, f"Hugging Face hub, {name}")
    known = f"{', '.join([*rows, MINI])}, {RANDOM_BYTES} in a run, a directory, or a hub id OWNER/NAME"
    hint = nearest(name, [*rows, MINI, RANDOM_BYTES])
    raise WeightsError(
        f"unknown weights {name!r}", known=f"{known}. {hint}" if hint else known, do="See: finetune weights ls"
    )


def load(name: str = "auto") -> tuple[Body | Classifier, Tokenizer]:
    """Load weights by name or directory: (model, tokenizer), in eval mode and fp32.

    A GPT maps (B, T) -> logits (B, T, V). A classifier's directory loads as a Classifier, an encoder-decoder from a
    seq2seq run as an EncoderDecoder, and a model from ``weights=scratch`` with other options as a Transformer or Encoder.
    """
    loaded = locate_weights(resolve_auto(name), fetch=True).load()
    return loaded.model, loaded.tokenizer


def _under_adapter(directory: Path, fetch: bool) -> WeightsSource:
    """An adapter's base weights, with the adapter on them: a directory, a registry row or a hub id."""
    named, revision = base_of(directory)
    row = next((row for row in weights_registry().values() if named in (row.repo, row.name)), None)
    base = locate_weights(named if row is None or os.path.isdir(named) else row.name, fetch=fetch)
    if base.adapter is not None:
        raise WeightsError(f"{directory}: an adapter for an adapter", got=named, known="an adapter for a GPT-2")
    if row and revision and base.pinned and revision != row.revision:
        raise WeightsError(
            f"{directory}: made for another revision of {named}", got=revision, known=f"{row.revision}, the registry's"
        )
    return replace(
        base, name=directory.name, source=f"an adapter of the user's on {base.source}", pinned=False, adapter=directory
    )


def _from_row(row: WeightsRow, fetch: bool) -> WeightsSource:
    directory = None if fetch else find_weights(row)
    if directory is None:
        directory = get_weights(row)
    if fetch:
        say(f"weights: {row.name}, {row.description} ({row.licence}), every file's sha256 checked")
    config = GPTConfig(
        vocab_size=row.vocab_size, context=row.context, width=row.width, layers=row.layers, heads=row.heads
    )
    return WeightsSource(
        row.name, directory, config, f"{row.repo} at revision {row.revision[:12]}", row.licence, pinned=True
    )


def _bundled() -> Path:
    return asset("weights", "mini")

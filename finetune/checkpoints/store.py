"""Read and write checkpoint directories: Hugging Face's GPT-2 layout, safetensors only.

Files are untrusted: the header is checked before any tensor is read, only numbers are taken from config.json, and
pickles are never opened.
"""

import json
import math
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from finetune.checkpoints.convert import LoadReport, finite, gpt_tensors, load_gpt
from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD
from finetune.errors import RunError, WeightsError
from finetune.files import (
    MANIFEST,
    damage,
    read_json,
    replace_directory,
    sync_directory,
    temporary_path,
    write_json,
    write_tensors,
)
from finetune.models.bodies import Body
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.tokenizer import Tokenizer

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HEADER_LIMIT, TENSOR_LIMIT = 1 << 20, 2000
CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "n_positions": "context",
    "n_embd": "width",
    "n_layer": "layers",
    "n_head": "heads",
    "layer_norm_epsilon": "norm_eps",
}
# The settings that our GPT implements; any other value in a config is an error.
FIXED = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
SIZE_LIMITS = {"vocab_size": 1 << 20, "n_positions": 1 << 17, "n_embd": 1 << 14, "n_layer": 256, "n_head": 256}


@dataclass
class LoadedCheckpoint:
    """A checkpoint in memory: the model (eval mode, fp32), its tokenizer and the report on its tensors."""

    model: Body | Classifier
    tokenizer: Tokenizer
    report: LoadReport

    @property
    def body(self) -> Body:
        """The model without a classifier's head."""
        return self.model.body if isinstance(self.model, Classifier) else self.model

    @property
    def gpt(self) -> GPT:
        """The GPT-2. Raises WeightsError for another model."""
        if not isinstance(self.body, GPT):
            raise WeightsError(f"{self.body.kind}'s weights", known="a GPT-2's", do="Give other weights, such as mini.")
        return self.body


def read_config(directory: Path) -> GPTConfig:
    """The shape in ``config.json``; only the numbers that our model uses are read."""
    path = Path(directory) / "config.json"
    if not path.exists():
        raise WeightsError(f"{directory}: no config.json", do="A checkpoint is a directory in Hugging Face's layout.")
    config = read_object(path)
    if config.get("model_type", "gpt2") != "gpt2":
        raise WeightsError(f"{path}: not a GPT-2", got=repr(config["model_type"]))
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise WeightsError(f"{path}: {key} differs from GPT-2's", got=repr(config[key]), known=repr(value))
    values = {}
    for theirs, ours in CONFIG_KEYS.items():
        if theirs not in config:
            continue
        value = config[theirs]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if theirs in SIZE_LIMITS and not (whole and 1 <= value <= SIZE_LIMITS[theirs]):
            raise WeightsError(
                f"{path}: {theirs} is out of range", got=repr(value), known=f"1 to {SIZE_LIMITS[theirs]}"
            )
        if theirs == "layer_norm_epsilon" and not (isinstance(value, float) and 0 < value < 1):
            raise WeightsError(f"{path}: {theirs} is out of range", got=repr(value), known="between 0 and 1")
        values[ours] = value
    shape = GPTConfig(**values)
    if config.get("n_inner") not in (None, 4 * shape.width):
        raise WeightsError(f"{path}: n_inner differs from GPT-2's", got=repr(config["n_inner"]), known="4 * n_embd")
    return shape


def tensor_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint; pickles are refused, and an index may only name files in the directory."""
    directory = Path(directory)
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        weight_map = read_object(index).get("weight_map")
        names = list(dict.fromkeys(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise WeightsError(
                    f"{index}: a shard must be a .safetensors file in the same directory", got=repr(name)
                )
            if not (directory / name).exists():
                raise WeightsError(f"{index}: a shard is missing", got=name)
        if names:
            return [directory / name for name in names]
        raise WeightsError(f"{index}: the index lists no shards")
    pickles = sorted(path.name for path in directory.glob("*") if path.suffix in PICKLES)
    if pickles:
        raise WeightsError(
            f"{directory}: the weights are pickled, and loading a pickle can run code",
            got=", ".join(pickles[:3]),
            known="model.safetensors",
            do="Convert them in a sandbox: transformers' AutoModelForCausalLM.from_pretrained(DIR)"
            ".save_pretrained(NEW) writes safetensors.",
        )
    raise WeightsError(f"{directory}: no model.safetensors here", do="See: finetune weights ls")


def read_header(path: Path) -> dict[str, tuple]:
    """Names and shapes in a safetensors file, after checking that the header matches the file's size."""

    def refuse(why: str) -> NoReturn:
        raise WeightsError(
            f"{path}: this is not a usable safetensors file",
            got=why,
            do="Download it again; `finetune weights verify` lists the damaged files.",
        )

    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            first = file.read(8)
            if first[:1] == b"<":
                refuse("an HTML page")
            if first.startswith(b"version "):
                refuse("a git-lfs pointer")
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                refuse(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length), object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        if len(header) > TENSOR_LIMIT:
            refuse(f"{len(header)} tensors")
        ends = [entry["data_offsets"][1] for entry in header.values()]
        if 8 + length + max(ends, default=0) != size:
            refuse(f"{size} bytes instead of {8 + length + max(ends, default=0)} (an incomplete download?)")
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        if any(math.prod(shape) < 1 for shape in shapes.values()):
            refuse("a tensor without elements")
        return shapes
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read", got=error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        refuse(f"a broken header ({type(error).__name__})")


def load_checkpoint(
    directory: Path, config: GPTConfig | None = None, dropout: float = 0.0, mapped: bool = False
) -> LoadedCheckpoint:
    """Load a checkpoint directory: a GPT, or a Classifier if it contains a classification head.

    config: the shape if the directory has no config.json (registry rows include it). mapped: compute with the file's
    own pages, for a process that ends before the file changes. Raises WeightsError.
    """
    directory = Path(directory)
    if not directory.is_dir():
        if directory.suffix in PICKLES:
            raise WeightsError(f"{directory}: pickles can run code and are never opened", known="safetensors")
        raise WeightsError(f"{directory}: no such directory")
    refuse_damaged(directory)
    shape = config or read_config(directory)
    shape = GPTConfig(**{**shape.__dict__, "dropout": dropout})
    location: dict[str, Path] = {}
    shapes: dict[str, tuple] = {}
    for path in tensor_files(directory):
        for name, size in read_header(path).items():
            if name in location:
                raise WeightsError(f"{path}: tensor {name} is also in {location[name].name}")
            location[name], shapes[name] = path, size

    try:
        read = _mapped_reader(location) if mapped else lambda name: read_tensor(location[name], name)
        gpt, report = load_gpt(shape, shapes, read, directory.name, mapped)
        model: GPT | Classifier = gpt
        if CLASSIFIER_HEAD in shapes:
            size = shapes[CLASSIFIER_HEAD]
            if len(size) != 2 or size[1] != shape.width:
                raise WeightsError(f"{directory}: {CLASSIFIER_HEAD} is {size}", known=f"(classes, {shape.width})")
            head = finite(read_tensor(location[CLASSIFIER_HEAD], CLASSIFIER_HEAD), CLASSIFIER_HEAD, directory.name)
            model = classifier = Classifier(gpt, len(head))
            classifier.head.weight.data.copy_(head)
            report.loaded += 1
            report.parameters += head.numel()
    except SafetensorError as error:
        raise WeightsError(f"{directory}: the tensors cannot be read", got=str(error)) from error
    tokenizer = matching_tokenizer(directory, shape.vocab_size)
    return LoadedCheckpoint(model.eval(), tokenizer, report)


def matching_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """The directory's tokenizer. Raises WeightsError if its size differs from the model's vocabulary."""
    tokenizer = Tokenizer.from_directory(directory)
    if tokenizer.vocab_size != vocab_size:
        raise WeightsError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens",
            known=f"the model has {vocab_size}",
            do="Use the checkpoint's own tokenizer files.",
        )
    return tokenizer


def exact_header(directory: Path, expected: Callable[[dict[str, tuple]], dict[str, tuple]]) -> Path:
    """The directory's model.safetensors. Raises WeightsError unless it has exactly the expected names and shapes.

    expected: called with the names and shapes in the file.
    """
    path = Path(directory) / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"{directory}: no model.safetensors here", do="Export the run again.")
    shapes = read_header(path)
    odd = sorted({*shapes.items()} ^ {*expected(shapes).items()})
    if odd:
        raise WeightsError(
            f"{path}: {len(odd)} tensors do not fit its config.json",
            got=", ".join(f"{name} {shape}" for name, shape in odd[:4]),
        )
    return path


def refuse_damaged(directory: Path) -> None:
    """Raise WeightsError if a file differs from the directory's manifest; foreign checkpoints have none."""
    if (directory / MANIFEST).exists() and (why := damage(directory)):
        raise WeightsError(
            f"{directory}: this checkpoint is damaged or was edited", got=why, do="Export or fetch it again."
        )


def write_checkpoint(
    directory: Path,
    model: GPT | Classifier,
    tokenizer: Tokenizer,
    extra_config: dict | None = None,
    extra_files: dict[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write Hugging Face's layout atomically; an existing directory of that name is replaced at the end."""
    gpt = gpt_of(model)
    tensors: dict[str, Tensor] = gpt_tensors(gpt)
    if isinstance(model, Classifier):
        tensors[CLASSIFIER_HEAD] = model.head.weight.detach().cpu().contiguous()
    kind = {"dtype": str(dtype).removeprefix("torch.")}
    files = tokenizer_files(gpt.config) | (extra_files or {})
    write_directory(
        directory,
        {name: tensor.to(dtype) for name, tensor in tensors.items()},
        hugging_face_config(model, tokenizer) | kind | (extra_config or {}),
        tokenizer,
        files,
    )


def write_directory(
    directory: Path,
    tensors: dict[str, Tensor],
    config: dict,
    tokenizer: Tokenizer,
    extra_files: dict[str, str] | None = None,
) -> None:
    """Write a checkpoint's files atomically; an existing directory of that name is replaced at the end."""
    directory = Path(directory)
    temporary = temporary_path(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "model.safetensors", tensors, {"format": "pt"})
        write_json(temporary / "config.json", config)
        tokenizer.save(temporary)
        for name, text in (extra_files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        for path in temporary.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        replace_directory(directory, temporary)
        sync_directory(directory.parent)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot write {directory}", got=str(error), do="Free some space, then run again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def hugging_face_config(model: GPT | Classifier, tokenizer: Tokenizer) -> dict:
    """The ``config.json`` that transformers needs."""
    kind = "GPT2ForSequenceClassification" if isinstance(model, Classifier) else "GPT2LMHeadModel"
    config = gpt_of(model).config
    ours = {theirs: getattr(config, name) for theirs, name in CONFIG_KEYS.items()}
    end = tokenizer.end_of_text
    return {
        "architectures": [kind],
        "model_type": "gpt2",
        "n_ctx": config.context,
        **ours,
        **FIXED,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def gpt_of(model: GPT | Classifier) -> GPT:
    """The GPT, without a classifier's head."""
    body = model.body if isinstance(model, Classifier) else model
    assert isinstance(body, GPT), "other models have a layout of their own"
    return body


def tokenizer_files(config: GPTConfig) -> dict[str, str]:
    """The file that AutoTokenizer needs beside vocabulary and merges."""
    return {"tokenizer_config.json": json.dumps(tokenizer_config(config), indent=2) + "\n"}


def tokenizer_config(config: GPTConfig) -> dict:
    """The config that makes AutoTokenizer match ours: special tokens typed in a text stay text."""
    end = "<|endoftext|>"
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "model_max_length": config.context,
        "padding_side": "right",
        "add_prefix_space": False,
        "split_special_tokens": True,
    }


def read_object(path: Path) -> dict:
    """A JSON object. Raises WeightsError for anything else."""
    try:
        value = read_json(path)
    except RunError as error:
        raise WeightsError(error.what, got=error.got) from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: not a JSON object", got=type(value).__name__)
    return value


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, memory-mapped.

    The file is closed so that its pages are freed; an open one would accumulate a second copy of the model.
    """
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _mapped_reader(location: dict[str, Path]) -> Callable[[str], Tensor]:
    """A function that returns tensors by name as views of their files, each opened once."""
    files = {path: safe_open(path, framework="pt") for path in set(location.values())}
    return lambda name: files[location[name]].get_tensor(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("duplicate name")
    return dict(pairs)

"""Foreign and damaged checkpoints: each is a WeightsError in words, nothing runs, nothing wrong loads."""

import json
import pickle
import random
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.checkpoints.sources import locate_weights
from finetune.checkpoints.store import HEADER_LIMIT, load_checkpoint, write_checkpoint
from finetune.errors import WeightsError
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.tokenizer import Tokenizer

HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"


@pytest.fixture
def model() -> GPT:
    """One block, width 16: the file is 30 kB."""
    return GPT(GPTConfig(vocab_size=257, context=8, width=16, layers=1, heads=2)).initialise(1)


@pytest.fixture
def checkpoint(model, tmp_path) -> Path:
    """A whole one; the tests damage it."""
    write_checkpoint(tmp_path / "checkpoint", model, Tokenizer.of_bytes())
    return tmp_path / "checkpoint"


@pytest.fixture
def tensors(checkpoint) -> Path:
    """Its tensor file."""
    return checkpoint / "model.safetensors"


def header_of(content: bytes) -> dict:
    """The JSON header of a safetensors file."""
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


def with_header(content: bytes, header: dict | str) -> bytes:
    """The same tensors under another header."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + struct.unpack("<Q", content[:8])[0] :]


def assert_refused(directory: Path, match: str = ".") -> None:
    """The directory is a WeightsError, said at once."""
    start = time.monotonic()
    with pytest.raises(WeightsError, match=match):
        load_checkpoint(directory)
    assert time.monotonic() - start < 2


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self):
        return Path.touch, (self.sentinel,)


@pytest.fixture
def sentinel(tmp_path, monkeypatch) -> Path:
    """The file that must not appear; opening any pickle fails the test, too."""

    def opened(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", opened)
    monkeypatch.setattr(pickle, "load", opened)
    return tmp_path / "sentinel"


def evil_files(sentinel: Path, path: Path, kind: str) -> None:
    """A plain pickle, or the zip file that torch.save writes."""
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil(sentinel)))
    else:
        torch.save({"wte.weight": Evil(sentinel)}, path)


def test_the_evil_pickle_is_one(tmp_path):
    evil_files(tmp_path / "sentinel", tmp_path / "evil.bin", "pickle")
    pickle.loads((tmp_path / "evil.bin").read_bytes())
    assert (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("kind", ["pickle", "zip"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "weights.pkl"])
def test_pickles_are_refused_and_never_opened(checkpoint, tensors, sentinel, kind, name):
    tensors.unlink()
    evil_files(sentinel, checkpoint / name, kind)
    assert_refused(checkpoint, f"the weights are pickled.*{name}.*save_pretrained")
    with pytest.raises(WeightsError, match="refused|not opened"):
        locate_weights(str(checkpoint / name))
    assert_refused(checkpoint / name, "pickles can run code")
    assert not sentinel.exists()


@pytest.mark.parametrize("kind", ["pickle", "zip"])
def test_a_pickle_with_the_name_of_safetensors_is_refused(checkpoint, tensors, sentinel, kind):
    evil_files(sentinel, tensors, kind)
    assert_refused(checkpoint, "not a usable safetensors file")
    assert not sentinel.exists()


def test_a_pickle_beside_safetensors_is_not_looked_at(checkpoint, sentinel):
    evil_files(sentinel, checkpoint / "pytorch_model.bin", "pickle")
    evil_files(sentinel, checkpoint / "optimizer.pt", "zip")
    assert load_checkpoint(checkpoint).report.loaded == 16 and not sentinel.exists()


@pytest.mark.parametrize(
    "content, why",
    [
        (HTML, "an HTML page"),
        (LFS_POINTER, "a git-lfs pointer"),
        (b"", "a header of 0 bytes"),
        (b"\0" * 7, "header"),
        (b"\0" * 4096, "a header of 0 bytes"),
        (b"PK\x03\x04" + b"\0" * 99, "header"),
        (b"GGUF" + b"\0" * 99, "header"),
    ],
)
def test_another_file_under_the_name_of_safetensors(checkpoint, tensors, content, why):
    tensors.write_bytes(content)
    assert_refused(checkpoint, f"not a usable safetensors file.*{why}")


@pytest.mark.parametrize("keep", [1, 7, 8, 9, 100, 0.03, 0.5, 0.99, -1])
def test_a_file_cut_short(checkpoint, tensors, keep):
    content = tensors.read_bytes()
    tensors.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert_refused(checkpoint, "not a usable safetensors file")


def test_a_file_with_more_than_it_says(checkpoint, tensors):
    tensors.write_bytes(tensors.read_bytes() + b"\0")
    assert_refused(checkpoint, "bytes instead of")


@pytest.mark.parametrize("length", [0, 1, 2, 500, 10**6, HEADER_LIMIT + 1, 2**31, 2**62, 2**63, 2**64 - 1])
def test_a_header_length_that_lies(checkpoint, tensors, length):
    tensors.write_bytes(struct.pack("<Q", length) + tensors.read_bytes()[8:])
    assert_refused(checkpoint, "not a usable safetensors file")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["transformer.ln_f.bias"].update(dtype="F99"),
        lambda h: h["transformer.ln_f.bias"].update(dtype="I32"),
        lambda h: h["transformer.ln_f.bias"].update(shape=[16.0]),
        lambda h: h["transformer.ln_f.bias"].update(shape=[True, 16]),
        lambda h: h["transformer.ln_f.bias"].update(shape=[-16, -1]),
        lambda h: h["transformer.ln_f.bias"].update(shape="16"),
        lambda h: h["transformer.ln_f.bias"].update(shape=[2**63, 2**63]),
        lambda h: h["transformer.ln_f.bias"].update(shape=[0, 2**62]),
        lambda h: h["transformer.ln_f.bias"].update(shape=[[16]]),
        lambda h: h["transformer.ln_f.bias"].update(data_offsets=[0, 64]),
        lambda h: h["transformer.ln_f.bias"].update(data_offsets=[-64, 0]),
        lambda h: h["transformer.ln_f.bias"].update(data_offsets=[]),
        lambda h: h["transformer.ln_f.bias"].update(data_offsets=[0, 1e400]),
        lambda h: h["transformer.ln_f.bias"].update(data_offsets=["0", "64"]),
        lambda h: h["transformer.ln_f.bias"].pop("shape"),
        lambda h: h.update({"transformer.ln_f.bias": None}),
        lambda h: h.update({"transformer.ln_f.bias": []}),
        lambda h: h.update({f"extra{i}": h["transformer.ln_f.bias"] for i in range(3000)}),
        lambda h: h.update({"\ud800": h.pop("transformer.ln_f.bias")}),
        lambda h: h.clear(),
    ],
)
def test_a_header_that_lies(checkpoint, tensors, change):
    content = tensors.read_bytes()
    header = header_of(content)
    change(header)
    tensors.write_bytes(with_header(content, header))
    assert_refused(checkpoint)


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "5", '"x"', "{" * 5000, "[" * 100_000, "NaN", "{}" + " " * 900_000, '{"a": ' + "9" * 5000 + "}"],
)
def test_a_header_that_is_none(checkpoint, tensors, text):
    tensors.write_bytes(with_header(tensors.read_bytes(), text))
    assert_refused(checkpoint, "not a usable safetensors file|do not fit")


def test_a_duplicate_tensor_name(checkpoint, tensors):
    content = tensors.read_bytes()
    header = header_of(content)
    text = json.dumps(header)
    entry = json.dumps(header["transformer.ln_f.bias"])
    tensors.write_bytes(with_header(content, text[:-1] + f', "transformer.ln_f.bias": {entry}}}'))
    assert_refused(checkpoint, "broken header")


def test_flipped_bits_in_the_header_never_load_something_else(checkpoint, tensors, model):
    content = tensors.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
            damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
        tensors.write_bytes(damaged)
        try:
            loaded = load_checkpoint(checkpoint).model
        except WeightsError:
            refused += 1
        else:
            assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert refused > 200


def test_other_damage_to_the_header_never_loads_something_else(checkpoint, tensors, model):
    content = tensors.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    rng = random.Random(1)
    refused = 0
    for _ in range(200):
        at, size = rng.randrange(end), rng.randint(1, 20)
        put = rng.choice([b"", rng.randbytes(size), content[at : at + size] * 2, bytes(size), b'"' * size, b"9" * size])
        tensors.write_bytes(content[:at] + put + content[at + size :])
        try:
            loaded = load_checkpoint(checkpoint).model
        except WeightsError:
            refused += 1
        else:
            assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert refused > 150


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["body.token_embedding.weight", "body.blocks.0.mlp.down.weight", "head.weight"])
def test_a_non_finite_value(checkpoint, model, part, value):
    classifier = Classifier(model, 3).initialise_head(0)
    with torch.no_grad():
        classifier.get_parameter(part)[0, 1] = value
    write_checkpoint(checkpoint, classifier, Tokenizer.of_bytes())
    assert_refused(checkpoint, "not finite")


@pytest.mark.parametrize("shape", [(3, 15), (3,), (), (3, 16, 1), (0, 16)])
def test_a_classification_head_of_another_shape(checkpoint, tensors, shape):
    from safetensors.torch import load_file

    save_file(load_file(tensors) | {"score.weight": torch.ones(shape)}, tensors)
    assert_refused(checkpoint, "score.weight is|without elements")


@pytest.mark.parametrize(
    "change, match",
    [
        ({"n_layer": 1e9}, "n_layer is out of range"),
        ({"n_layer": 10**9}, "n_layer is out of range"),
        ({"n_layer": 200, "n_embd": 16384, "n_positions": 1 << 17}, "do not fit"),
        ({"n_layer": 2}, "12 tensors do not fit"),
        ({"n_layer": 0}, "n_layer"),
        ({"n_layer": -1}, "n_layer"),
        ({"n_layer": True}, "n_layer"),
        ({"n_layer": "1"}, "n_layer"),
        ({"n_layer": None}, "n_layer"),
        ({"n_head": 3}, "not a valid GPT-2 shape"),
        ({"n_embd": None}, "n_embd"),
        ({"n_embd": {}}, "n_embd"),
        ({"n_embd": 10**400}, "n_embd"),
        ({"n_embd": 32}, "do not fit"),
        ({"n_inner": 17}, "n_inner"),
        ({"n_inner": []}, "n_inner"),
        ({"n_positions": 9}, "wpe.weight is"),
        ({"vocab_size": 50257}, "wte.weight is"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"activation_function": ["gelu_new"]}, "activation_function"),
        ({"scale_attn_weights": False}, "scale_attn"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn"),
        ({"tie_word_embeddings": False}, "tie_word"),
        ({"add_cross_attention": True}, "cross"),
        ({"model_type": "gpt_neo"}, "not a GPT-2"),
        ({"model_type": ["gpt2"]}, "not a GPT-2"),
    ],
)
def test_a_config_of_another_model(checkpoint, change, match):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    assert_refused(checkpoint, match)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"n_layer": ' + "9" * 5000 + "}", "\ud800"])
def test_a_config_that_is_none(checkpoint, text):
    (checkpoint / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_refused(checkpoint, "config.json")


def test_code_named_by_a_config_is_not_looked_at(checkpoint, model, tmp_path):
    path = checkpoint / "config.json"
    (checkpoint / "evil.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {
                "auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"},
                "trust_remote_code": True,
                "_attn_implementation_internal": "someone/evil",
                "architectures": ["Evil"],
                "torch_dtype": "float4",
            }
        )
    )
    loaded = load_checkpoint(checkpoint).model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert not (tmp_path / "sentinel").exists()


@pytest.fixture
def shards(checkpoint, tensors) -> Path:
    """The same checkpoint in two shards; the path of the index."""
    from safetensors.torch import load_file

    every = load_file(tensors)
    tensors.unlink()
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(every)}
    for shard in set(weight_map.values()):
        save_file({name: every[name] for name in every if weight_map[name] == shard}, checkpoint / shard)
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/../../x.safetensors",
        "..",
        "",
        "x.bin",
        "~/x.safetensors",
        "http://x/y.safetensors",
        None,
        5,
        ["x.safetensors"],
        {},
    ],
)
def test_a_shard_outside_the_directory(shards, name):
    first = shards.parent / "model-00001-of-00002.safetensors"
    (shards.parent.parent / "x.safetensors").write_bytes(first.read_bytes())
    index = json.loads(shards.read_text())
    index["weight_map"]["transformer.wte.weight"] = name
    shards.write_text(json.dumps(index))
    assert_refused(shards.parent, "a shard must be a .safetensors file")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": "x"}', "[" * 100_000]
)
def test_an_index_that_is_none(shards, text):
    shards.write_text(text)
    assert_refused(shards.parent, "index.json")


def test_shards_that_are_missing_or_overlap(shards):
    from safetensors.torch import load_file

    first, second = (shards.parent / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert load_checkpoint(shards.parent).report.loaded == 16
    whole = load_file(first)
    save_file(whole | load_file(second), first)
    assert_refused(shards.parent, "model-00002.*is also in model-00001")
    save_file(whole, first)
    second.rename(second.with_suffix(".gone"))
    assert_refused(shards.parent, "a shard is missing")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json", "merges.txt"])
def test_a_directory_or_nothing_where_a_file_belongs(checkpoint, name):
    (checkpoint / name).unlink()
    assert_refused(checkpoint)
    (checkpoint / name).mkdir()
    assert_refused(checkpoint)


@pytest.mark.parametrize("path", ["nowhere", "nowhere/model.bin"])
def test_a_directory_that_is_not_there(tmp_path, path):
    assert_refused(tmp_path / path, "no such directory|never opened")

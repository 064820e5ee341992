"""Read an exported directory by its published layout in plain numpy, to compare exports without transformers.

It shares no code with our model, tokenizer or checkpoints, so that a bug cannot affect both sides of the comparison.
Sources: openai/gpt-2, src/model.py and src/encoder.py; transformers' modeling_blenderbot.py; peft's LoRA layer.
Shape letters: T tokens, S source tokens, C width, V vocabulary, K classes.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

KINDS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class PlainReader:
    """The model and the tokenizer of a directory. ``odd`` lists tensors that the layout does not have."""

    name = "a reader in plain numpy"

    def __init__(self, directory: Path, tensors: dict[str, np.ndarray] | None = None, config: dict | None = None):
        """tensors, config: replace those of the directory, for weights with a merged adapter."""
        own = read_tensors(directory / "model.safetensors") if tensors is None else tensors
        self._tensors = {name.removeprefix("transformer."): tensor for name, tensor in own.items()}
        self._unread = set(self._tensors)
        self._config = _read(directory / "config.json") if config is None else config
        self._tokenizer = PlainTokenizer(directory) if (directory / "vocab.json").exists() else None

    @property
    def odd(self) -> dict[str, list[str]]:
        """Tensors that have not been read so far."""
        return {"unexpected_keys": sorted(self._unread)} if self._unread else {}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, truncated at the tokenizer's own length."""
        assert self._tokenizer is not None, "there is a tokenizer beside an export"
        return self._tokenizer.encode(text)

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of messages, rendered by the chat template up to the answer."""
        assert self._tokenizer is not None, "there is a tokenizer beside an export"
        return self._tokenizer.chat(messages)

    def classify(self, rows: Sequence[list[int]]) -> np.ndarray:
        """Class logits (n, K), one text at a time."""
        last = np.stack([self._gpt2(np.array(row))[-1] for row in rows])
        return last @ self._take("score.weight").T

    def tag(self, rows: Sequence[list[int]]) -> list[np.ndarray]:
        """Tag logits of every token of each text: (T, K) each."""
        weight, bias = self._take("classifier.weight"), self._take("classifier.bias")
        return [self._gpt2(np.array(row)) @ weight.T + bias for row in rows]

    def next_token_logits(self, ids: np.ndarray) -> np.ndarray:
        """Logits of the next token: (B, T) -> (B, T, V)."""
        return np.stack([self._gpt2(row) for row in ids]) @ self._take("wte.weight").T

    def target_logits(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """An encoder-decoder's logits of the next target token: (B, S), (B, T) -> (B, T, V)."""
        return np.stack([self._blenderbot(*pair) for pair in zip(sources, targets, strict=True)])

    def _take(self, name: str) -> np.ndarray:
        if name not in self._tensors:
            raise ValueError(f"{name} is missing")
        self._unread.discard(name)
        return self._tensors[name]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """(T, I) -> (T, O); GPT-2's matrices are stored input by output, Blenderbot's output by input."""
        weight, bias = self._take(f"{name}.weight"), self._take(f"{name}.bias")
        return x @ (weight.T if name.startswith("model.") else weight) + bias

    def _norm(self, x: np.ndarray, name: str, eps: float) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * self._take(f"{name}.weight") + self._take(f"{name}.bias")

    def _gpt2(self, ids: np.ndarray) -> np.ndarray:
        """The last hidden states of one text: (T,) -> (T, C)."""
        config = self._config
        if config["activation_function"] != "gelu_new":
            raise ValueError(f"the activation is {config['activation_function']}")
        heads, eps = config["n_head"], config["layer_norm_epsilon"]
        x = self._take("wte.weight")[ids] + self._take("wpe.weight")[: len(ids)]
        for block in range(config["n_layer"]):
            name = f"h.{block}"
            qkv = self._linear(self._norm(x, f"{name}.ln_1", eps), f"{name}.attn.c_attn")
            x = x + self._linear(_attend(*_thirds(qkv), heads, causal=True), f"{name}.attn.c_proj")
            inner = _gelu(self._linear(self._norm(x, f"{name}.ln_2", eps), f"{name}.mlp.c_fc"))
            x = x + self._linear(inner, f"{name}.mlp.c_proj")
        return self._norm(x, "ln_f", eps)

    def _blenderbot(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(S,), (T,) -> (T, V)."""
        encoded = self._side("encoder", source, None)
        return self._side("decoder", target, encoded) @ self._take("model.shared.weight").T

    def _side(self, side: str, ids: np.ndarray, encoded: np.ndarray | None) -> np.ndarray:
        """The last hidden states of one side: (T,) -> (T, C). encoded: the source (S, C), for a decoder."""
        config = self._config
        if config["activation_function"] != "gelu_new" or config["scale_embedding"]:
            raise ValueError("unsupported activation or embedding scale")
        heads, eps = config[f"{side}_attention_heads"], 1e-5

        def attend(x: np.ndarray, to: np.ndarray, name: str, causal: bool) -> np.ndarray:
            q, k, v = (self._linear(z, f"{name}.{part}_proj") for part, z in (("q", x), ("k", to), ("v", to)))
            return self._linear(_attend(q, k, v, heads, causal), f"{name}.out_proj")

        x = self._take("model.shared.weight")[ids] + self._take(f"model.{side}.embed_positions.weight")[: len(ids)]
        for block in range(config[f"{side}_layers"]):
            name = f"model.{side}.layers.{block}"
            normed = self._norm(x, f"{name}.self_attn_layer_norm", eps)
            x = x + attend(normed, normed, f"{name}.self_attn", causal=encoded is not None)
            if encoded is not None:
                normed = self._norm(x, f"{name}.encoder_attn_layer_norm", eps)
                x = x + attend(normed, encoded, f"{name}.encoder_attn", causal=False)
            inner = _gelu(self._linear(self._norm(x, f"{name}.final_layer_norm", eps), f"{name}.fc1"))
            x = x + self._linear(inner, f"{name}.fc2")
        return self._norm(x, f"model.{side}.layer_norm", eps)


class PlainTokenizer:
    """Byte-level BPE from ``vocab.json`` and ``merges.txt``, truncated at ``model_max_length``."""

    def __init__(self, directory: Path):
        import regex  # type: ignore[import-untyped]  # a requirement of tiktoken

        self._vocab: dict[str, int] = _read(directory / "vocab.json")
        lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
        self._ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
        self._config: dict[str, Any] = _read(directory / "tokenizer_config.json")
        self._pieces, self._known = regex.compile(PIECES), dict[str, list[int]]()
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [byte for byte in range(256) if byte not in plain]
        self._letters = dict(zip([*plain, *rest], map(chr, [*plain, *range(256, 256 + len(rest))]), strict=True))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens in it are plain text."""
        return self._whole(text)[: self._config["model_max_length"]]

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of messages, rendered by the chat template up to the answer, without truncation."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        end = self._config["eos_token"]
        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
            self._config["chat_template"]
        )
        text = template.render(messages=messages, add_generation_prompt=True, eos_token=end)
        if self._config["split_special_tokens"]:
            return self._whole(text)
        first, *rest = map(self._whole, text.split(end))
        return [*first, *(number for ids in rest for number in (self._vocab[end], *ids))]

    def _whole(self, text: str) -> list[int]:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return [number for piece in self._pieces.findall(whole) for number in self._ids(piece)]

    def _ids(self, piece: str) -> list[int]:
        if piece not in self._known:
            parts = [self._letters[byte] for byte in piece.encode()]
            while len(parts) > 1:
                ranks = [self._ranks.get(pair, len(self._ranks)) for pair in zip(parts, parts[1:], strict=False)]
                at = int(np.argmin(ranks))
                if ranks[at] == len(self._ranks):
                    break
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            self._known[piece] = [self._vocab[part] for part in parts]
        return self._known[piece]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, as fp32."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    data, found = np.memmap(path, mode="r", offset=8 + size), {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            values = data[start:end].view(KINDS[entry["dtype"]])
            if entry["dtype"] == "BF16":  # the upper half of an fp32
                values = (values.astype(np.uint32) << 16).view(np.float32)
            found[name] = np.asarray(values, dtype=np.float32).reshape(entry["shape"])
    return found


def with_adapter(tensors: dict[str, np.ndarray], directory: Path) -> dict[str, np.ndarray]:
    """The base's tensors with a directory's PEFT adapter merged, and the other modules that the adapter saves."""
    config, own = _read(directory / "adapter_config.json"), read_tensors(directory / "adapter_model.safetensors")
    found = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for name, tensor in own.items():
        place = name.removeprefix("base_model.model.").removeprefix("transformer.")
        if place.endswith(".lora_A.weight"):
            layer = place.removesuffix(".lora_A.weight")
            if layer not in config["target_modules"]:
                raise ValueError(f"{layer} is not a target module")
            up = own[name.replace("lora_A", "lora_B")]  # (O, R)
            delta = (up @ tensor).T * (config["lora_alpha"] / config["r"])  # (I, O), as the base is stored
            found[f"{layer}.weight"] = found[f"{layer}.weight"] + delta
        elif not place.endswith(".lora_B.weight"):
            found[place] = tensor
    return found


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, causal: bool) -> np.ndarray:
    """softmax(q k' / sqrt(d)) v for each head: (T, C), (S, C), (S, C) -> (T, C)."""
    q, k, v = (z.reshape(len(z), heads, -1).swapaxes(0, 1) for z in (q, k, v))  # (H, T, D)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]).astype(np.float32)  # (H, T, S)
    if causal:
        scores = np.where(np.tri(*scores.shape[1:]) > 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return y.swapaxes(0, 1).reshape(y.shape[1], -1)


def _thirds(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T, 3C) -> three of (T, C)."""
    width = x.shape[-1] // 3
    return x[:, :width], x[:, width : 2 * width], x[:, 2 * width :]


def _gelu(x: np.ndarray) -> np.ndarray:
    """GELU in its tanh form."""
    return 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

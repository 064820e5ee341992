"""Checks of the parts of a GPT-2: its tokens, its attention, its norms, its head, its weights and its cache."""

from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from finetune.checkpoints.fallback import MINI
from finetune.checkpoints.gpt2_keys import PREFIX, expand
from finetune.checkpoints.sources import locate_weights
from finetune.commands.learn.bundled import PROMPT, TEXTS, continuation, ids_of, mini, row_of
from finetune.commands.learn.exercise import CLOSE, Verdict, WrongResultError, gap, says, tensor_from
from finetune.commands.learn.forward import Forward, Parts, continued, logits_with, logits_with_cache
from finetune.models.gpt import GPT
from finetune.tokenizer import split_pieces

Learner = Callable[..., Any]
MOST_MERGES = 100  # in a piece of text; the pieces here need at most 12


def check_merge_once(function: Learner) -> Verdict:
    """Whether the merges lead to the tokenizer's tokens."""
    _, tokenizer = mini()
    wrong = []
    for text in TEXTS:
        own = [part for piece in split_pieces(text) for part in _merged(function, piece)]
        expected = [tokenizer.decode_bytes([token]) for token in tokenizer.encode(text)]
        if own != expected:
            wrong.append((text, expected, own))
    if not wrong:
        tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
        return Verdict(True, [f"{len(TEXTS)} texts become the {tokens} tokens that the tokenizer gives"])
    text, expected, own = wrong[0]
    figures = [f"the text:      {text}", f"its tokens:    {_shown(expected)}", f"with yours:    {_shown(own)}"]
    ids = {tokenizer.decode_bytes([token]): token for token in range(tokenizer.vocab_size)}
    prompt = [part for piece in split_pieces(PROMPT) for part in _merged(function, piece)]
    if all(part in ids for part in prompt):
        gpt, _ = mini()
        yours = continued(gpt, tokenizer, [tokenizer.end_of_text, *(ids[part] for part in prompt)])
        return Verdict(False, figures + says(continuation(), yours))
    unknown = next(part for part in prompt if part not in ids)
    return Verdict(False, [*figures, f"mini cannot read it: no token is {unknown!r}"])


def check_causal_mask(function: Learner) -> Verdict:
    """The model with the learner's mask."""
    return _check_parts(Parts(mask=lambda T: tensor_from(function(T), (T, T), "causal_mask", boolean=True)))


def check_attention(function: Learner) -> Verdict:
    """The model with the learner's attention."""
    return _check_parts(
        Parts(attend=lambda q, k, v, mask: tensor_from(function(q, k, v, mask), tuple(q.shape), "attention"))
    )


def check_layer_norm(function: Learner) -> Verdict:
    """The model with the learner's layer norm."""
    return _check_parts(
        Parts(norm=lambda x, w, b, eps: tensor_from(function(x, w, b, eps), tuple(x.shape), "layer_norm"))
    )


def check_tied_head(function: Learner) -> Verdict:
    """The model with the learner's output layer."""

    def head(hidden: Tensor, embedding: Tensor) -> Tensor:
        return tensor_from(function(hidden, embedding), (*hidden.shape[:-1], len(embedding)), "tied_head")

    return _check_parts(Parts(head=head))


def check_to_linear(function: Learner) -> Verdict:
    """The model with the weights as the learner reads them from the file."""
    gpt, _ = mini()
    own = GPT(gpt.config).eval().requires_grad_(False)
    parameters = dict(own.named_parameters())
    with safe_open(locate_weights(MINI).directory / "model.safetensors", "pt") as file:
        names = {name.removeprefix(PREFIX): name for name in file.keys()}  # noqa: SIM118  (no dict)
        for theirs, ours, _ in expand(gpt.config.layers):
            stored = file.get_tensor(names[theirs]).float()
            shape = tuple(parameters[ours].shape)
            value = function(theirs, stored)
            if isinstance(value, Tensor) and value.shape != shape:
                return Verdict(
                    False, [f"{theirs} {tuple(stored.shape)} became {tuple(value.shape)}; nn.Linear needs {shape}"]
                )
            parameters[ours].copy_(tensor_from(value, shape, "to_linear"))
    return _check_forward(own)


def check_extend_cache(function: Learner) -> Verdict:
    """The model with the learner's cache, token by token."""
    gpt, _ = mini()

    def extend(cached: Tensor | None, new: Tensor) -> Tensor:
        S = 0 if cached is None else cached.shape[2]
        return tensor_from(function(cached, new), (*new.shape[:2], S + new.shape[2], new.shape[3]), "extend_cache")

    return _check_forward(logits_with_cache(gpt, extend))


def check_last_real(function: Learner) -> Verdict:
    """Whether the texts of a padded batch continue as each text does alone."""
    gpt, tokenizer = mini()
    rows = [ids_of(text) for text in ("The king of", PROMPT, "She was born in the United")]
    longest = max(map(len, rows)) + 3
    ids = torch.tensor([row + [tokenizer.end_of_text] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    hidden = gpt.hidden_states(ids)
    found = tensor_from(function(hidden, mask), (len(rows), gpt.config.width), "last_real")
    expected = torch.cat([gpt(torch.tensor([row]))[:, -1] for row in rows])
    logits = found @ gpt.token_embedding.weight.T
    far = gap(logits, expected)
    words = [
        f"{tokenizer.decode(row[1:])!r} continues with {tokenizer.decode([int(alone.argmax())])!r} alone, and with "
        f"{tokenizer.decode([int(own.argmax())])!r} in your padded batch"
        for row, alone, own in zip(rows, expected, logits, strict=True)
    ]
    return Verdict(far < CLOSE, [_distance(far), *words])


def _check_parts(parts: Parts) -> Verdict:
    gpt, _ = mini()
    return _check_forward(logits_with(gpt, parts))


def _check_forward(forward: Forward) -> Verdict:
    """Compare the logits of a forward pass with the model's own, and show how both continue a text."""
    gpt, _ = mini()
    far = max(gap(forward(row_of(text)), gpt(row_of(text))) for text in (*TEXTS, "A"))
    if far < CLOSE:
        return Verdict(True, [_distance(far), f"mini says:     {continuation()}"])
    return Verdict(False, [_distance(far), *says(continuation(), continuation(forward))])


def _distance(far: float) -> str:
    return f"largest difference from mini's logits: {far:.2g} (equal up to {CLOSE:g})"


def _merged(function: Learner, piece: str) -> list[bytes]:
    """The parts of a piece of text after all merges of the learner."""
    _, tokenizer = mini()
    parts = [bytes([byte]) for byte in piece.encode()]
    for _ in range(MOST_MERGES):
        merged = function(list(parts), tokenizer.merges)
        if not isinstance(merged, list) or not all(isinstance(part, bytes) for part in merged):
            raise WrongResultError(
                "merge_once did not return a list of bytes", got=repr(merged)[:60], known="[b'th', b'e']"
            )
        if merged == parts:
            return parts
        parts = merged
    raise WrongResultError(
        "merge_once never ends", got=repr(parts)[:60], known="the parts unchanged if no pair has a rank"
    )


def _shown(parts: list[bytes]) -> str:
    return " ".join(repr(part.decode("utf-8", "replace")) for part in parts[:12])

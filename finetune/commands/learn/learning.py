"""Checks of training and decoding: targets, LoRA's merge, top-p and the temperature."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.adapters.lora import add_lora, lora_layers
from finetune.commands.learn.bundled import PROMPT, TEXTS, continuation, ids_of, mini
from finetune.commands.learn.exercise import CLOSE, Verdict, WrongResultError, gap, says, tensor_from
from finetune.commands.learn.forward import continued
from finetune.models.gpt import GPT
from finetune.models.sampling import filter_logits

Learner = Callable[..., Any]
STEPS, RATE = 12, 1e-3  # of the training that shows the effect of wrong targets
RANK, ALPHA = 4, 8.0


def check_inputs_and_targets(function: Learner) -> Verdict:
    """The loss of mini on a text, and how it continues the text after a short training on the learner's targets."""
    gpt, tokenizer = mini()
    rows = [torch.tensor(ids_of(text)) for text in TEXTS]
    pairs = [_pair(function, ids) for ids in rows]
    right = all(
        torch.equal(inputs, ids[:-1]) and torch.equal(targets, ids[1:])
        for ids, (inputs, targets) in zip(rows, pairs, strict=True)
    )
    expected, found = (_loss(gpt, each) for each in ([(ids[:-1], ids[1:]) for ids in rows], pairs))
    figures = [f"mini's loss:   {expected:.3f} nats per token", f"with yours:    {found:.3f}"]
    if right:
        return Verdict(True, figures)
    trained = copy.deepcopy(gpt).requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            loss = torch.stack([_cross_entropy(trained, *pair) for pair in pairs]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    figures.append(f"after {STEPS} training steps on your targets the loss is {_loss(trained, pairs):.3f}, and:")
    return Verdict(False, figures + says(continuation(), continuation(trained)))


def check_merge_lora(function: Learner) -> Verdict:
    """A model with LoRA against the same model with weights that the learner merged."""
    gpt, _ = mini()
    adapted, merged = copy.deepcopy(gpt), copy.deepcopy(gpt)
    add_lora(adapted, RANK, ALPHA, 0.0, ("attention.qkv", "mlp.up"), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, layer in lora_layers(adapted).items():
        layer.lora_B.data.normal_(0.0, 0.06, generator=generator)
        weight = tensor_from(
            function(layer.weight, layer.lora_A, layer.lora_B, ALPHA), tuple(layer.weight.shape), "merge_lora"
        )
        merged.get_submodule(name).weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
    adapted.requires_grad_(False)
    ids = [torch.tensor([ids_of(text)]) for text in TEXTS]
    far = max(gap(merged(row), adapted(row)) for row in ids)
    figures = [f"largest difference from the logits of mini with LoRA: {far:.2g} (equal up to {CLOSE:g})"]
    if far < CLOSE:
        return Verdict(True, figures)
    return Verdict(False, figures + says(continuation(adapted), continuation(merged), "LoRA"))


def check_top_p(function: Learner) -> Verdict:
    """The tokens that may be sampled, and a text sampled from them."""
    wrong = []
    for text in TEXTS:
        logits = _next_logits(text)
        for p in (0.1, 0.5, 0.9, 0.99, 1.0):
            kept = tensor_from(function(logits, p), tuple(logits.shape), "top_p", boolean=True)
            expected = filter_logits(logits[None], top_p=p)[0] > -torch.inf
            if not torch.equal(kept, expected):
                wrong.append((p, int(expected.sum()), int(kept.sum()), float(logits.softmax(-1)[kept].sum())))
    if not wrong:
        return Verdict(True, [f"the same tokens are kept for p from 0.1 to 1, after {len(TEXTS)} texts"])
    p, ours, own, share = wrong[0]
    figures = [f"p = {p:g}: {ours:,} tokens should be kept; yours keeps {own:,}, with {share:.1%} of the probability"]
    right, yours = (_sampled(_kept_by(keep)) for keep in (_top_p, function))
    return Verdict(False, figures + says(right, yours))


def check_temperature(function: Learner) -> Verdict:
    """Probabilities at several temperatures, and a text sampled from them."""
    far = 0.0
    for text in TEXTS:
        for scale in (1.0, 100.0):  # logits so large that a plain exp overflows
            logits = scale * _next_logits(text)
            for temperature in (0.5, 1.0, 2.0):
                found = tensor_from(function(logits, temperature), tuple(logits.shape), "temperature")
                far = max(far, gap(found, (logits / temperature).softmax(-1)))
    right = far < 1e-5
    figures = [f"largest difference of the probabilities: {far:.2g}"]
    if far == float("inf"):
        figures = ["some probabilities are NaN: exp of a large logit is infinite"]
    if right:
        return Verdict(True, figures)
    ours, yours = _sampled(partial(_softened, temperature=0.5)), _sampled(lambda logits: function(logits, 0.5))
    return Verdict(False, [*figures, "sampled at temperature 0.5:", *says(ours, yours)])


def _pair(function: Learner, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The learner's inputs and targets of a text, of equal length."""
    pair = function(ids.clone())
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise WrongResultError("inputs_and_targets did not return two tensors", got=repr(pair)[:60])
    inputs, targets = pair
    if inputs.shape != targets.shape or inputs.ndim != 1 or not len(inputs) or inputs.dtype != torch.long:
        raise WrongResultError(
            "inputs and targets do not match",
            got=f"{tuple(inputs.shape)} and {tuple(targets.shape)}",
            known="two rows of token ids of equal length",
        )
    return inputs, targets


def _cross_entropy(gpt: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(gpt(inputs[None])[0], targets)


def _loss(gpt: GPT, pairs: list[tuple[Tensor, Tensor]]) -> float:
    return float(
        sum(float(_cross_entropy(gpt, *pair)) * len(pair[0]) for pair in pairs) / sum(len(p[0]) for p in pairs)
    )


def _next_logits(text: str) -> Tensor:
    """(V,)."""
    gpt, _ = mini()
    return gpt(torch.tensor([ids_of(text.rstrip("."))]))[0, -1]


def _top_p(logits: Tensor, p: float) -> Tensor:
    return filter_logits(logits[None], top_p=p)[0] > -torch.inf


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).softmax(-1)


def _kept_by(rule: Learner) -> Callable[[Tensor], Tensor]:
    """The probabilities of the tokens that a top-p rule keeps at p = 0.5."""
    return lambda logits: logits.masked_fill(~rule(logits, 0.5), -torch.inf).softmax(-1)


def _sampled(probabilities: Callable[[Tensor], Tensor]) -> str:
    """A text sampled by a rule: logits (V,) -> probabilities (V,)."""
    gpt, tokenizer = mini()
    generator = torch.Generator().manual_seed(1)

    def forward(ids: Tensor) -> Tensor:
        found = probabilities(gpt(ids)[0, -1])
        if not bool(found.isfinite().all()) or float(found.sum()) <= 0 or float(found.min()) < 0:
            raise WrongResultError("no probabilities")
        choice = torch.multinomial(found, 1, generator=generator)
        return F.one_hot(choice, len(found)).float()[None]

    try:
        return continued(forward, tokenizer, ids_of(PROMPT))
    except WrongResultError:
        return "nothing: at some position these are not probabilities, or no token is left to sample from"

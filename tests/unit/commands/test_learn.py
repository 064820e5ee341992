"""Every exercise is solved by the package's own function, and each usual bug is found and shown."""

import numpy as np
import pytest
import torch

from finetune.commands.learn.bundled import mini, row_of
from finetune.commands.learn.catalogue import EXERCISES
from finetune.commands.learn.forward import Parts, logits_with, logits_with_cache
from finetune.evaluation import intervals
from finetune.evaluation.calibration import softmax
from finetune.models.cache import KVCache, LayerCache
from finetune.models.gpt import causal_mask_at, gather_positions
from finetune.models.plain_attention import plain_attention
from finetune.models.sampling import filter_logits
from finetune.tables.splits import normalise_text
from finetune.tokenizer import merge_once


def extend(cached, new):
    cache = KVCache(1, 64)
    for part in (cached, new):
        if part is not None:
            keys, _ = LayerCache(cache, 0).extend(part, part)
            cache.length += part.shape[2]
    return keys.clone()


def norm_of_the_reader(x, weight, bias, eps):
    from finetune.export.plain_reader import PlainReader

    reader = PlainReader.__new__(PlainReader)
    reader._tensors, reader._unread = {"n.weight": weight.numpy(), "n.bias": bias.numpy()}, set()
    return torch.from_numpy(reader._norm(x.numpy(), "n", eps))


def merged(weight, lora_A, lora_B, alpha):
    from finetune.adapters.lora import LoRALinear

    plain = torch.nn.Linear(weight.shape[1], weight.shape[0])
    plain.weight.data = weight
    layer = LoRALinear(plain, len(lora_A), alpha, 0.0, torch.Generator().manual_seed(0))
    layer.lora_A.data, layer.lora_B.data = lora_A, lora_B
    return layer.merged().weight


def packed(ids, tmp_path):
    from finetune.tasks.pretrain.packing import PackedTokens

    ids.numpy().astype(np.uint16).tofile(tmp_path / "x.bin")
    inputs, targets = PackedTokens(tmp_path / "x.bin", 256, 8192, 0).batch([0], -100)
    return inputs[0], targets[0]


def transposed(name, tensor):
    from finetune.checkpoints.gpt2_keys import expand

    return tensor.T if {theirs: turned for theirs, _, turned in expand(12)}[name] else tensor


def exact(only_a, only_b):
    a = np.array([True] * only_a + [False] * only_b, dtype=bool)
    return intervals.mcnemar(a, ~a)


SOLUTIONS = {
    "merge-once": merge_once,
    "causal-mask": lambda length: causal_mask_at(torch.arange(length), length)[:, 0, 0],
    "attention": lambda q, k, v, mask: plain_attention(q, k, v, mask)[0],
    "layer-norm": norm_of_the_reader,
    "tied-head": torch.nn.functional.linear,
    "to-linear": transposed,
    "inputs-and-targets": packed,
    "extend-cache": extend,
    "top-p": lambda logits, p: filter_logits(logits[None], top_p=p)[0] > -torch.inf,
    "merge-lora": merged,
    "last-real": lambda hidden, mask: gather_positions(hidden, mask.sum(1) - 1)[:, 0],
    "temperature": lambda logits, t: torch.from_numpy(softmax(logits.numpy()[None], t)[0]).float(),
    "wilson": intervals.wilson,
    "mcnemar": exact,
    "leakage": normalise_text,
}


def last_pair(parts, ranks):
    for place in range(len(parts) - 1):
        if (parts[place], parts[place + 1]) in ranks:  # the first pair instead of the best
            return [*parts[:place], parts[place] + parts[place + 1], *parts[place + 2 :]]
    return parts


def cut_too_early(logits, p):
    values, order = logits.softmax(0).sort(descending=True)
    kept = torch.zeros_like(logits, dtype=torch.bool)
    kept[order] = values.cumsum(0) <= p  # without the token that reaches p
    return kept


def textbook(successes, n):
    share = successes / n if n else 0.5
    half = 1.96 * (share * (1 - share) / max(n, 1)) ** 0.5
    return share - half, share + half


def approximate(only_a, only_b):
    from scipy.stats import chi2

    return float(chi2.sf((only_a - only_b) ** 2 / max(only_a + only_b, 1), 1))


BUGS = {
    "merge-once": [last_pair],
    "causal-mask": [
        lambda length: torch.ones(length, length, dtype=torch.bool),
        lambda length: torch.ones(length, length, dtype=torch.bool).triu(),
    ],
    "attention": [
        lambda q, k, v, mask: (q @ k.transpose(-2, -1)).masked_fill(~mask, -torch.inf).softmax(-1) @ v,
        lambda q, k, v, mask: (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v,
    ],
    "layer-norm": [
        lambda x, w, b, eps: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * w + b,
        lambda x, w, b, eps: x * w + b,
    ],
    "tied-head": [lambda hidden, table: hidden @ table.flip(0).T],
    "to-linear": [
        lambda name, tensor: tensor.T if tensor.ndim == 2 and "attn.c_proj" not in name and name[0] == "h" else tensor,
        lambda name, tensor: tensor.T if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1] else tensor,
    ],
    "inputs-and-targets": [lambda ids: (ids, ids), lambda ids: (ids[1:], ids[:-1])],
    "extend-cache": [lambda cached, new: new if cached is None else torch.cat([cached, cached[:, :, :1]], 2)],
    "top-p": [cut_too_early, lambda logits, p: logits.softmax(0).sort().values.cumsum(0) < p],
    "merge-lora": [lambda w, a, b, alpha: w + alpha * b @ a, lambda w, a, b, alpha: w + b @ a],
    "last-real": [lambda hidden, mask: hidden[:, -1], lambda hidden, mask: hidden.mean(1)],
    "temperature": [
        lambda logits, t: logits.softmax(0) / t,
        lambda logits, t: (logits * t).softmax(0),
        lambda logits, t: (logits / t).exp() / (logits / t).exp().sum(),
    ],
    "wilson": [textbook],
    "mcnemar": [approximate],
    "leakage": [str.lower, lambda text: "one text"],
}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
@torch.no_grad()
def test_the_packages_own_function_solves_it(exercise, tmp_path):
    solution = SOLUTIONS[exercise.name]
    verdict = exercise.check((lambda ids: solution(ids, tmp_path)) if solution is packed else solution)
    assert verdict.right and verdict.figures, verdict
    file, _, rest = exercise.where_solved().partition(":")
    assert file.startswith("finetune/") and int(rest.split()[0]) > 0


@pytest.mark.parametrize(
    "name, bug", [(name, number) for name, bugs in BUGS.items() for number in range(len(bugs))], ids=str
)
@torch.no_grad()
def test_each_bug_is_found_and_shown(name, bug):
    exercise = next(exercise for exercise in EXERCISES if exercise.name == name)
    verdict = exercise.check(BUGS[name][bug])
    assert not verdict.right and verdict.figures, verdict
    shown = [line.split(": ", 1)[1] for line in verdict.figures if line.startswith(("mini says", "with yours"))]
    hidden = any("likeliest words are the same" in line for line in verdict.figures)
    assert hidden == ((name, bug) in (("layer-norm", 0), ("temperature", 2))) and (
        hidden or len(shown) < 2 or shown[0] != shown[1]
    )


@torch.no_grad()
def test_the_pass_that_is_written_out_is_the_models(tmp_path):
    gpt, _ = mini()
    row = row_of("The bank was closed.")
    torch.testing.assert_close(logits_with(gpt, Parts())(row), gpt(row), rtol=0, atol=1e-4)
    plain = logits_with_cache(gpt, lambda cached, new: new if cached is None else torch.cat([cached, new], 2))
    torch.testing.assert_close(plain(row), gpt(row), rtol=0, atol=1e-4)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_every_file_is_python_with_a_hole(exercise):
    number = EXERCISES.index(exercise) + 1
    text, names = exercise.text(number), {}
    exec(compile(text, exercise.name, "exec"), names)
    assert f"Exercise {number}:" in text and f"finetune learn check {number}" in text
    assert callable(names[exercise.function]) and text.count("raise NotImplementedError") == 1
    assert max(map(len, text.splitlines())) <= 120 and exercise.hint

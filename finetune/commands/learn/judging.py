"""Checks of the statistics of an evaluation: an interval, a paired test, and leakage."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from finetune.commands.learn.bundled import ids_of, mini, spam_sample
from finetune.commands.learn.exercise import Verdict, WrongResultError
from finetune.evaluation.intervals import mcnemar, wilson
from finetune.hub.assets import asset
from finetune.tables.splits import normalise_text

Learner = Callable[..., Any]
CUT = 3  # last blocks removed from mini to get a second model
TRIED, SHARE = 20, 0.95  # number of answers and true accuracy at which an interval's coverage is checked
MOST_PAIRS = 30  # rows on which exactly one of two models is right


def check_wilson(function: Learner) -> Verdict:
    """The interval for the accuracy of mini's next token, and the coverage of such intervals."""
    right, n = _next_tokens_right(skip_blocks=0)
    correct = int(right.sum())
    cases = [(correct, n), (0, 10), (10, 10), (1, 3), (19, 20), (0, 0)]
    found = {case: _two_numbers(function(*case)) for case in cases}
    same = all(np.allclose(found[case], wilson(*case), atol=1e-6) for case in cases)
    low, high = found[correct, n]
    figures = [
        f"mini's likeliest next token is right at {correct} of {n} positions: {correct / n:.1%}",
        f"your interval:  {low:.1%} to {high:.1%}   Wilson's: {' to '.join(f'{x:.1%}' for x in wilson(correct, n))}",
    ]
    if not same:
        figures.append("all right, 10 of 10: " + " to ".join(f"{x:.1%}" for x in found[10, 10]))
        figures.append(
            f"of models that are right {SHARE:.0%} of the time, asked {TRIED} questions, your interval covers the truth "
            f"in {_coverage(function):.0%}; Wilson's in {_coverage(wilson):.0%}"
        )
    return Verdict(same, figures)


def check_mcnemar(function: Learner) -> Verdict:
    """The p value of mini against mini without its last blocks, and how often the test calls equal models different."""
    (whole, n), (cut, _) = _next_tokens_right(skip_blocks=0), _next_tokens_right(skip_blocks=CUT)
    only_whole, only_cut = int((whole & ~cut).sum()), int((cut & ~whole).sum())
    cases = [(only_whole, only_cut), (0, 0), (1, 0), (5, 5), (9, 1), (1, 9), (15, 5), (30, 70)]
    found = {case: _number(function(*case)) for case in cases}
    same = all(np.isclose(found[case], _p_value(*case), atol=1e-9) for case in cases)
    figures = [
        f"of {n} next tokens only mini is right at {only_whole}, only mini without its last {CUT} blocks at {only_cut}",
        f"your p value: {found[only_whole, only_cut]:.3g}   McNemar's: {_p_value(only_whole, only_cut):.3g}",
    ]
    if not same:
        figures.append(
            f"of equally good models, your test calls up to {_false_alarms(function):.1%} different at p < 0.05; the exact "
            f"test {_false_alarms(_p_value):.1%}"
        )
    return Verdict(same, figures)


def check_leakage(function: Learner) -> Verdict:
    """Whether copies of training texts are found in a test set, and how a model that only memorises profits from them."""
    rows = spam_sample()
    train, test = rows[:400], rows[400:500]
    copies = [(label, _disguised(text, number)) for number, (label, text) in enumerate(train[:40])]
    test = test + copies
    answers = {normalise_text(text): label for label, text in train}
    keys = {_text(function(text)) for _, text in train}
    clean = [(label, text) for label, text in test if _text(function(text)) not in keys]
    expected = [(label, text) for label, text in test if normalise_text(text) not in answers]
    usual = Counter(label for label, _ in train).most_common(1)[0][0]
    remembered = sum(normalise_text(text) in answers for _, text in clean)
    figures = [
        f"{len(test)} test texts, {len(copies)} of them copies from training in another spelling",
        f"your clean test set has {len(clean)} texts, {remembered} of them leaked; it should have {len(expected)}",
    ]
    if clean and remembered:
        scores = (
            sum(answers.get(normalise_text(text), usual) == label for label, text in part) / len(part)
            for part in (clean, expected)
        )
        figures.append("a model that only memorises gets {:.1%} right there; on the clean texts {:.1%}".format(*scores))
    return Verdict(clean == expected, figures)


def _next_tokens_right(skip_blocks: int) -> tuple[np.ndarray, int]:
    """Whether the likeliest next token is right, at each place of a bundled text: bool (n,), n."""
    gpt, _ = mini()
    text = (asset("data", "text") / "sample.txt").read_text(encoding="utf-8")[:700]
    ids = torch.tensor([ids_of(text)[: gpt.config.context]])
    x = gpt.embed(ids)
    for block in list(gpt.blocks)[: len(gpt.blocks) - skip_blocks]:
        x = block(x)
    guesses = (gpt.norm(x) @ gpt.token_embedding.weight.T).argmax(-1)[0, :-1]
    right = (guesses == ids[0, 1:]).numpy()
    return right, len(right)


def _p_value(only_a: int, only_b: int) -> float:
    """The p value of this package's test, from the two counts."""
    a = np.array([True] * only_a + [False] * only_b, dtype=bool)
    return mcnemar(a, ~a)


def _coverage(interval: Learner) -> float:
    """How often an interval contains the true share, over all outcomes."""
    from scipy.stats import binom

    total = 0.0
    for right in range(TRIED + 1):
        low, high = _two_numbers(interval(right, TRIED))
        total += float(binom.pmf(right, TRIED, SHARE)) * (low <= SHARE <= high)
    return total


def _false_alarms(test: Learner) -> float:
    """How often a test of two equally good models gives p < 0.05; the maximum over the numbers of rows."""
    from scipy.stats import binom

    shares = []
    for n in range(1, MOST_PAIRS + 1):
        alarms = [only_a for only_a in range(n + 1) if _number(test(only_a, n - only_a)) < 0.05]
        shares.append(float(binom.pmf(alarms, n, 0.5).sum()))
    return max(shares)


def _disguised(text: str, number: int) -> str:
    """The same text in another spelling."""
    if number % 4 == 0:
        return text.upper()
    if number % 4 == 1:
        return "  " + text.replace(" ", "  ")
    if number % 4 == 2:
        return "".join(str((int(c) + 1) % 10) if c.isascii() and c.isdigit() else c for c in text) + " "
    return "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in text)  # full-width letters


def _two_numbers(value: object) -> tuple[float, float]:
    try:
        low, high = map(float, value)  # type: ignore[call-overload]  # checked here
        return low, high
    except (TypeError, ValueError):
        raise WrongResultError("wilson did not return two numbers", got=repr(value)[:60], known="(low, high)") from None


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # checked here
    except (TypeError, ValueError):
        raise WrongResultError("mcnemar did not return a number", got=repr(value)[:60], known="a p value") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongResultError(
            "leakage did not return a text", got=repr(value)[:60], known="the text in its plain form"
        )
    return value

"""Both families tell exactly the target and its end, whatever stands beside a pair in its batch."""

import pytest
import torch
from torch.nn import functional as F

from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.model import SourceThenTarget, SourceToTarget

END, VOCABULARY = 28, 29
SHAPE = {"vocab_size": VOCABULARY, "context": 24, "width": 16, "layers": 2, "heads": 2}
PAIRS = [Pair([3], [5, 6, 7]), Pair([1, 2, 3, 4, 9], [8]), Pair([4, 4], [9, 10, 11, 12, 13, 14])]
TEXTS = [(pair.source, pair.target) for pair in PAIRS]
CPU = torch.device("cpu")


@pytest.fixture(params=["decoder", "encoder-decoder"])
def family(request):
    if request.param == "decoder":
        return SourceThenTarget(GPT(GPTConfig(**SHAPE)).initialise(1, std=0.2), END, smoothing=0.1).eval()
    return SourceToTarget(EncoderDecoder(EncoderDecoderConfig(**SHAPE)).initialise(1, std=0.2), END, 0.1).eval()


def logits_of(family, source, target):
    """What the plain model says before each token of the target and its end: (T, V)."""
    if isinstance(family, SourceThenTarget):
        return family.body(torch.tensor([[*source, END, *target]]))[0, len(source) :]
    return family.body(torch.tensor([source]), torch.tensor([[END, *target]]))[0]


def test_what_is_supervised_is_the_target_and_its_end(family):
    *_, targets = family.batch(PAIRS)
    assert [[token for token in row if token != IGNORE] for row in targets.tolist()] == [
        [*pair.target, END] for pair in PAIRS
    ]


def test_the_loss_is_the_cross_entropy_of_the_targets_alone(family):
    expected = [
        F.cross_entropy(logits_of(family, source, target), torch.tensor([*target, END]), reduction="sum")
        for source, target in TEXTS
    ]
    torch.testing.assert_close(family(*family.batch(PAIRS)), sum(expected), rtol=1e-5, atol=1e-5)
    nats, right = family.teacher_forced(*family.batch(PAIRS))
    torch.testing.assert_close(nats, torch.stack(expected), rtol=1e-5, atol=1e-5)
    best = [logits_of(family, source, target).argmax(dim=-1) for source, target in TEXTS]
    assert right.tolist() == [
        sum(a == b for a, b in zip(own.tolist(), [*target, END], strict=True))
        for own, (_, target) in zip(best, TEXTS, strict=True)
    ]


def test_label_smoothing_applies_only_in_training(family):
    batch = family.batch(PAIRS)
    plain = family(*batch)
    wanted = sum(
        F.cross_entropy(
            logits_of(family, source, target), torch.tensor([*target, END]), reduction="sum", label_smoothing=0.1
        )
        for source, target in TEXTS
    )
    torch.testing.assert_close(family.train()(*batch), wanted, rtol=1e-5, atol=1e-5)
    assert abs(float(wanted.detach()) - float(plain.detach())) > 0.01


def test_gradients_of_a_batch_are_those_of_its_rows(family):
    def gradients(batches):
        family.zero_grad()
        for pairs in batches:
            family(*family.batch(pairs)).backward()
        return [parameter.grad.clone() for parameter in family.parameters() if parameter.grad is not None]

    for together, apart in zip(gradients([PAIRS]), gradients([[pair] for pair in PAIRS]), strict=True):
        assert float((together - apart).norm()) <= 1e-5 * float(apart.norm()) + 1e-6


def test_batched_generation_equals_greedy_decoding_of_each_source(family):
    sources = [source for source, _ in TEXTS]
    together = family.write(sources, 8, CPU, temperature=0.0)
    for source, row in zip(sources, together.tolist(), strict=True):
        target = []
        while len(target) < 8:
            token = int(logits_of(family, source, target)[-1].argmax())
            target.append(token)
            if token == END:
                break
        assert row[: len(target)] == target and set(row[len(target) :]) <= {END}

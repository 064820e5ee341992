"""Our Classifier against transformers' GPT2ForSequenceClassification, and against itself in other batches."""

import pytest
import torch
from torch.nn import functional as F

from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD, PREFIX, expand
from finetune.checkpoints.store import load_checkpoint
from finetune.models.gpt import gather_positions
from finetune.models.heads import Classifier

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model(classifier) -> Classifier:
    """What load_checkpoint makes of transformers' directory."""
    return load_checkpoint(classifier.directory).model


@pytest.fixture(scope="module")
def last(classifier) -> torch.Tensor:
    """The index of each text's last token that is no pad."""
    return (classifier.inputs != classifier.inputs.max()).sum(1) - 1


def test_logits_loss_and_gradients_are_those_of_transformers(classifier, model, last):
    assert isinstance(model, Classifier) and {0, classifier.inputs.shape[1] - 1} <= set(last.tolist())
    logits = model(classifier.inputs, last)
    torch.testing.assert_close(logits, classifier.logits, atol=TOLERANCE, rtol=0)
    loss = F.cross_entropy(logits, classifier.labels)
    assert loss.item() == pytest.approx(classifier.loss, abs=TOLERANCE)
    model.zero_grad()
    loss.backward()
    parameters = dict(model.body.named_parameters())
    ours = {
        PREFIX + theirs: parameters[name].grad.T if transposed else parameters[name].grad
        for theirs, name, transposed in expand(model.body.config.layers)
    }
    ours[CLASSIFIER_HEAD] = model.head.weight.grad
    assert ours.keys() == classifier.gradients.keys()
    for name, gradient in classifier.gradients.items():
        assert (ours[name] - gradient).abs().max() / gradient.abs().max() < TOLERANCE, name


@torch.no_grad()
def test_asking_the_top_block_for_one_position_equals_the_full_pass(classifier, model, last):
    full = model.head(gather_positions(model.body.hidden_states(classifier.inputs), last)[:, 0])
    torch.testing.assert_close(model(classifier.inputs, last), full, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(full, classifier.logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("first_block", [1, 2, 3])
def test_starting_from_stored_states_equals_transformers(classifier, model, last, first_block):
    states = model.lower(classifier.inputs, last, first_block)
    torch.testing.assert_close(model(states, last, first_block), classifier.logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("pad", [0, 299])
def test_neither_the_batch_nor_its_padding_changes_a_prediction(classifier, model, last, batch, pad):
    alone = torch.cat(
        [model(row[None, : end + 1], end[None]) for row, end in zip(classifier.inputs, last, strict=True)]
    )
    inputs = classifier.inputs.clone()
    inputs[torch.arange(inputs.shape[1]) > last[:, None]] = pad
    together = torch.cat([model(inputs[i : i + batch], last[i : i + batch]) for i in range(0, len(inputs), batch)])
    assert (together - alone).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("wrong", [lambda last: last * 0, lambda last: last * 0 + 63, lambda last: last - 1])
def test_reading_another_token_fails_the_comparison(classifier, model, last, wrong):
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            model(classifier.inputs, wrong(last).clamp(min=0)), classifier.logits, atol=TOLERANCE, rtol=0
        )

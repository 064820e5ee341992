"""The instruction task: its loss and its answers are those of each example by itself, however they are batched."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.models.heads import LossModule
from finetune.recipe import Train
from finetune.tasks.instruct import job as instruct_job
from finetune.tasks.instruct.examples import make_examples, prompt_room, tokenize
from finetune.tasks.instruct.records import Instruction
from finetune.tasks.instruct.settings import Instruct
from finetune.tasks.writing import Answer
from finetune.tokenizer import Tokenizer

BYTES = Tokenizer.of_bytes()
CPU = torch.device("cpu")


def model(seed=0, context=64, vocab=BYTES.vocab_size):
    gpt = GPT(GPTConfig(vocab, context=context, width=32, layers=2, heads=2)).initialise(seed, std=0.2)
    return LossModule(gpt).eval()


def some_examples(count=23, seed=0, loss_on="answer"):
    draw = np.random.default_rng(seed)
    words = ["a", "bé", "🦊", "wxyz", "longer words"]
    records = [
        Instruction(
            100 + i,
            " ".join(draw.choice(words, draw.integers(1, 4))),
            "",
            " ".join(draw.choice(words, draw.integers(1, 4))),
        )
        for i in range(count)
    ]
    return make_examples(records, tokenize(records, BYTES, Instruct(style="plain")), 64, loss_on)


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_the_jobs_loss_is_a_plain_cross_entropy_of_each_example(loss_on):
    net, train, val = model(), some_examples(loss_on=loss_on), some_examples(11, seed=1, loss_on=loss_on)
    settings = Train(micro_batch_tokens=90)
    job = instruct_job.build_job(net, settings, train, val, CPU)

    def plain(part, i):
        inputs, targets = part.example(i)
        with torch.no_grad():
            logits = net.body(torch.tensor([inputs]))[0].double()
        return F.cross_entropy(logits, torch.tensor(targets), ignore_index=IGNORE, reduction="sum").item()

    with torch.no_grad():
        for rows in ([0], [3, 1, 7], list(range(23))):
            expected = sum(plain(train, i) for i in rows)
            assert job.loss_sum(net, job.batch(rows)).item() == pytest.approx(expected, rel=2e-6)
    examples = [train.example(row) for row in range(23)]
    assert job.weights == [sum(t != IGNORE for t in targets) for _, targets in examples] and min(job.weights) >= 2
    assert job.lengths == [len(inputs) for inputs, _ in examples] and job.name_row(2) == "102"
    loss = sum(plain(val, i) for i in range(11)) / sum(val.loss_tokens())
    assert job.validate(net) == pytest.approx({"log_loss": loss, "perplexity": np.exp(loss)}, rel=1e-5)
    nats = instruct_job.answer_nll(net, val, [[i] for i in range(11)], CPU)
    assert nats == pytest.approx([plain(val, i) for i in range(11)], rel=1e-5)


def test_batched_answers_equal_greedy_decoding_of_each_prompt():
    net, settings = model(), Instruct(style="plain", max_new_tokens=9)
    records = [Instruction(0, text, "", "") for text in ("a", "longer words", "🦊", "é b", "x" * 100)]
    found = make_examples(records, tokenize(records, BYTES, settings), 64, "answer")
    prompts = found.prompts(prompt_room(64, settings))
    assert [len(ids) for ids in prompts] == [2, 13, 5, 5, 55]  # the last one leaves room for an answer
    with torch.no_grad():
        net.body.token_embedding.weight[BYTES.end_of_text] *= 6  # so that some answers end
    expected = []
    for ids in prompts:
        own = list(ids)
        while len(own) < len(ids) + 9:
            with torch.no_grad():
                own.append(int(net.body(torch.tensor([own]))[0, -1].argmax()))
            if own[-1] == BYTES.end_of_text:
                break
        new = own[len(ids) :]
        ended = new[-1] == BYTES.end_of_text
        text = BYTES.decode_bytes(new).decode("utf-8", "replace").strip()
        expected.append(Answer(text, len(new) - ended, ended))
    assert instruct_job.generate_answers(net.body, prompts, BYTES, 9, CPU) == expected
    assert len({answer.ended for answer in expected}) == 2

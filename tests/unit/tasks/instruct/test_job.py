"""The instruction task: what is learnt is the answer and its end and nothing else, however it is cut and batched."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.hub.assets import asset
from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.models.heads import NextToken
from finetune.recipe import Train
from finetune.tasks.instruct import job as instruct_job
from finetune.tasks.instruct.prompts import prompt
from finetune.tasks.instruct.settings import Instruct
from finetune.tasks.writing import Answer
from finetune.tokenizer import Tokenizer

BYTES, MINI = Tokenizer.of_bytes(), Tokenizer.from_directory(asset("weights", "mini"))
CPU = torch.device("cpu")
STYLES = [{"style": "alpaca"}, {"style": "plain"}, {"style": "chat"}, {"template": "é {instruction} ({input}):"}]
AWKWARD = ["🦊", "é", "\u0301 accent that joins", " leading", ")", "\n", "ends in a space ", "日本語",
           "\u200d🦊👩\u200d👩\u200d👧", "'s", "<|endoftext|>", "naïve café 🦊"]


def pair(row, instruction, given, output):
    return {"row": row, "instruction": instruction, "input": given, "output": output}


def awkward_pairs():
    return [pair(i, before, given, after) for i, (before, after) in enumerate(
        (before, after) for before in AWKWARD for after in AWKWARD) for given in ("", before)][::3]


@pytest.mark.parametrize("tokenizer", [BYTES, MINI], ids=["bytes", "bpe"])
@pytest.mark.parametrize("settings", STYLES, ids=lambda settings: next(iter(settings.values()))[:8])
def test_learnt_tokens_are_exactly_the_answer_and_its_end(settings, tokenizer):
    chosen, records = Instruct(**settings), awkward_pairs()
    found = instruct_job.examples(records, tokenizer, chosen, max_length=500)
    assert found.rows == [record["row"] for record in records] and not found.cut and not found.left_out
    crossing = 0
    for record, inputs, targets in zip(records, found.inputs, found.targets, strict=True):
        learnt = [target for target in targets if target != IGNORE]
        asked = "".join(piece.text for piece in prompt(record, chosen))
        lead = " " if settings.get("style") == "chat" else ""
        answer = lead + record["output"]
        assert learnt[-1] == tokenizer.end_of_text and tokenizer.end_of_text not in learnt[:-1]
        assert tokenizer.decode_bytes(learnt[:-1]) == answer.encode()
        assert inputs[:-len(learnt) + 1] == tokenizer.encode(asked)  # what is not learnt is the prompt, whole
        assert inputs[1:] == [token if target == IGNORE else target
                              for token, target in zip(inputs[1:], targets[:-1], strict=True)]
        crossing += tokenizer.encode(asked + answer) != inputs[:-len(learnt) + 1] + learnt[:-1]
    colon = "style" not in settings or settings["style"] == "alpaca"
    assert (crossing > 0) == (tokenizer is MINI and colon), "as one text, ':' and ')' are a token"


def test_every_turn_of_the_assistant_is_learnt():
    turns = ["Hi 🦊", "Hello é", "Where?", "Here.", "Bye", "日本"]
    record = {"row": 0, "messages": [{"role": "system", "content": "Be kind."}] + [
        {"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]}
    [targets] = instruct_job.examples([record], MINI, Instruct(style="chat"), 256).targets
    learnt = [target for target in targets if target != IGNORE]
    end = [MINI.end_of_text]
    assert learnt == MINI.encode(" Hello é") + end + MINI.encode(" Here.") + end + MINI.encode(" 日本") + end


def test_the_whole_text_is_learnt_where_it_is_asked_for():
    record = pair(0, "Say é", "", "🦊")
    answer_only, whole = (instruct_job.examples([record], BYTES, Instruct(style="plain", loss_on=on), 99)
                          for on in ("answer", "all"))
    text = [*"Say é\n🦊".encode(), BYTES.end_of_text]
    assert [BYTES.decode_bytes([token]) for token in whole.inputs[0]] == [bytes([b]) for b in text[:-1]]
    assert whole.targets[0] == whole.inputs[0][1:] + [BYTES.end_of_text] and IGNORE not in whole.targets[0]
    assert answer_only.inputs == whole.inputs and answer_only.learnt() == [5] and whole.learnt() == [len(text) - 1]


def test_a_long_prompt_loses_its_beginning_and_the_answer_nothing():
    record, settings = pair(3, "abcdefgh", "", "xyz"), Instruct(style="plain")  # 9 + 3 tokens and the end
    for max_length in range(1, 16):
        found = instruct_job.examples([record], BYTES, settings, max_length)
        if max_length < 4:  # the answer, its end and one token before them
            assert (found.rows, found.left_out, found.cut) == ([], [3], [])
            continue
        assert BYTES.decode_bytes([t for t in found.targets[0] if t != IGNORE]) == b"xyz"
        kept = BYTES.decode_bytes(found.inputs[0])
        assert "abcdefgh\nxyz".endswith(kept.decode()) and len(kept) == min(max_length, 12)
        assert found.cut == ([3] if max_length < 12 else []) and not found.left_out


def test_an_earlier_answer_that_is_cut_is_read_and_not_learnt():
    record = {"row": 0, "messages": [{"role": role, "content": content} for role, content in zip(
        ("user", "assistant", "user", "assistant"), ("a", "bcdef", "g", "h"), strict=True)]}
    settings = Instruct(style="chat")
    whole = instruct_job.examples([record], BYTES, settings, 99)
    size = len(whole.inputs[0])
    for max_length in range(4, size + 1):
        found = instruct_job.examples([record], BYTES, settings, max_length)
        learnt = BYTES.decode_bytes([t for t in found.targets[0] if t != IGNORE]).decode()
        prompt_left = max_length > size - len("User: a\nAssistant:")
        assert learnt == (" bcdef h" if prompt_left else " h"), max_length


def model(seed=0, context=64, vocab=BYTES.vocab_size):
    gpt = GPT(GPTConfig(vocab, context=context, width=32, layers=2, heads=2)).initialise(seed, std=0.2)
    return NextToken(gpt).eval()


def some_examples(count=23, seed=0, loss_on="answer"):
    draw = np.random.default_rng(seed)
    words = ["a", "bé", "🦊", "wxyz", "longer words"]
    records = [pair(100 + i, " ".join(draw.choice(words, draw.integers(1, 4))), "",
                    " ".join(draw.choice(words, draw.integers(1, 4)))) for i in range(count)]
    return instruct_job.examples(records, BYTES, Instruct(style="plain", loss_on=loss_on), 64)


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_the_jobs_loss_is_a_plain_cross_entropy_of_each_example(loss_on):
    net, train, val = model(), some_examples(loss_on=loss_on), some_examples(11, seed=1, loss_on=loss_on)
    settings = Train(micro_batch_tokens=90)
    job = instruct_job.build_job(net, settings, train, val, CPU)

    def plain(part, i):
        with torch.no_grad():
            logits = net.gpt(torch.tensor([part.inputs[i]]))[0].double()
        return F.cross_entropy(logits, torch.tensor(part.targets[i]), ignore_index=IGNORE, reduction="sum").item()
    with torch.no_grad():
        for rows in ([0], [3, 1, 7], list(range(23))):
            expected = sum(plain(train, i) for i in rows)
            assert job.loss_sum(net, job.batch(rows)).item() == pytest.approx(expected, rel=2e-6)
    assert job.weights == [sum(t != IGNORE for t in targets) for targets in train.targets] and min(job.weights) >= 2
    assert job.lengths == [len(row) for row in train.inputs] and job.name_row(2) == "102"
    loss = sum(plain(val, i) for i in range(11)) / sum(val.learnt())
    assert job.validate(net) == pytest.approx({"log_loss": loss, "perplexity": np.exp(loss)}, rel=1e-5)
    nats = instruct_job.answer_nats(net, val, [[i] for i in range(11)], CPU)
    assert nats == pytest.approx([plain(val, i) for i in range(11)], rel=1e-5)


def test_answers_are_each_prompts_own_likeliest_tokens():
    net, settings = model(), Instruct(style="plain", max_new_tokens=9)
    prompts = [instruct_job.prompt_ids(pair(0, text, "", ""), BYTES, settings, 64)
               for text in ("a", "longer words", "🦊", "é b", "x" * 100)]
    assert [len(ids) for ids in prompts] == [2, 13, 5, 5, 55]  # the last one leaves room for an answer
    with torch.no_grad():
        net.gpt.token_embedding.weight[BYTES.end_of_text] *= 6  # so that some answers end
    expected = []
    for ids in prompts:
        own = list(ids)
        while len(own) < len(ids) + 9:
            with torch.no_grad():
                own.append(int(net.gpt(torch.tensor([own]))[0, -1].argmax()))
            if own[-1] == BYTES.end_of_text:
                break
        new = own[len(ids):]
        ended = new[-1] == BYTES.end_of_text
        text = BYTES.decode_bytes(new).decode("utf-8", "replace").strip()
        expected.append(Answer(text, len(new) - ended, ended))
    assert instruct_job.generate_answers(net.gpt, prompts, BYTES, 9, CPU) == expected
    assert len({answer.ended for answer in expected}) == 2

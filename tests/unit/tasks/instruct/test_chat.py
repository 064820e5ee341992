"""The conversation: what the model reads, what is forgotten, where an answer stops."""

import pytest
import torch

from finetune.models.gpt import GPT, GPTConfig
from finetune.models.sampling import Decoding
from finetune.tasks.instruct.chat import Conversation, converse
from finetune.tasks.instruct.records import Message
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import Tokenizer

BYTES = Tokenizer.of_bytes()


class Scripted(GPT):
    """A model that says what it is told to and notes what it was asked."""

    def __init__(self, answers, context=96):
        super().__init__(GPTConfig(BYTES.vocab_size, context=context, width=8, layers=1, heads=1))
        self.answers, self.asked = iter(answers), []

    def generate(self, input_ids, max_new_tokens, *, end, stop, on_tokens, note, **options):
        self.asked.append(BYTES.decode_bytes([i for i in input_ids[0].tolist() if i != end]).decode())
        self.ends, new = input_ids[0].tolist().count(end), []
        for token in [*BYTES.encode(next(self.answers)), end][:max_new_tokens]:
            on_tokens(torch.tensor([token]))
            new.append(token)
            if token == end or (stop and stop(new)):
                break


def talk(model, lines, max_new_tokens=40, **settings):
    conversation = Conversation(model, BYTES, Instruct(**settings), max_new_tokens, Decoding())
    said = []
    converse(conversation, lines, said.append)
    return "".join(said), conversation


def test_the_model_reads_the_whole_conversation_in_the_style_of_its_training():
    model = Scripted([" a é", " b"])
    said, _ = talk(model, ["hi 🦊", "and?"], style="chat")
    assert said == "a é\nb\n"
    assert model.asked == ["User: hi 🦊\nAssistant:", "User: hi 🦊\nAssistant: a é\nUser: and?\nAssistant:"]
    assert model.ends == 1  # each answer that was given is closed as in training


def test_a_style_of_single_questions_forgets_each():
    model = Scripted(["one", "two"])
    talk(model, ["first", "second"], style="plain")
    assert model.asked == ["first\n", "second\n"]


def test_an_answer_never_speaks_for_the_person():
    said, conversation = talk(Scripted([" yes\nUser: thanks\nAssistant: bye"]), ["ok?"], style="chat")
    assert said == "yes\n" and conversation.messages[-1] == Message("assistant", "yes")


def test_commands_are_not_questions(capsys):
    model = Scripted([" x", " y"])
    said, conversation = talk(model, ["one", "/reset", "", "/what now", "two", "/quit", "three"], style="chat")
    assert said == "x\ny\n" and model.asked[1] == "User: two\nAssistant:" and len(conversation.messages) == 2
    assert "no command '/what'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lines, said, kept",
    [
        (["aaaa", "bbbb", "cccc"], "the first exchange is forgotten", ["bbbb", "cccc"]),
        (["a" * 10, "b" * 40], "the first exchange is forgotten", ["b" * 40]),
        (["a" * 90], "too many: the model reads the last 56", ["a" * 44]),
    ],
)
def test_what_does_not_fit_is_forgotten_and_said(lines, said, kept, capsys):
    model = Scripted([" ok"] * 3)
    talk(model, lines, style="chat")
    assert said in capsys.readouterr().err
    asked = model.asked[-1]
    assert len(asked.encode()) + model.ends <= 96 - 40 and [part for part in kept if part in asked] == kept
    assert lines[0] not in asked


def test_nothing_but_an_end_is_said_to_be_nothing():
    said, _ = talk(Scripted([""]), ["?"], style="chat")
    assert said == "(no answer)\n"

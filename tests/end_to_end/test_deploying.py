"""The Python of docs/deploying.md, run as it stands on the exports of a run."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from finetune.export import FORMATS
from finetune.files import damage

QUESTION = "Name three colours."


@pytest.fixture
def onnx(finetune, toy_copy):
    """A classifier's export in ONNX, beside that of Hugging Face's layout."""
    done = finetune("export", toy_copy, "--format", "onnx")
    assert done.status == 0, done.err
    assert re.search(r"onnxruntime makes the same decision on (\d+) of \1 texts", done.out), done.out
    return toy_copy / "export" / "onnx"


def test_onnx_predicts_as_the_bundle(onnx, toy_copy, monkeypatch, finetune, tools):
    from finetune.tasks.classify.bundle import Bundle

    expected = Bundle.load(toy_copy).predict(["a text"])
    monkeypatch.syspath_prepend(str(onnx))
    found = tools.run_guide("A service without torch: onnxruntime", onnx)
    assert found["labels"] == expected[0]
    assert abs(found["probabilities"] - expected[1]).max() < 1e-4
    ours, theirs = (finetune("predict", place, "a text", "cash prize").out for place in (toy_copy, onnx))
    assert ours == theirs and ours.count("\n") == 2


def test_transformers_reads_a_classifier(toy, tools):
    found = tools.run_guide("transformers", toy.run / "export" / "hf")
    assert found["classify"]("win " * 900)[0]["label"] in ("ham", "spam")


def test_scikit_learn_reads_a_bundle(toy, tools):
    found = tools.run_guide("scikit-learn", toy.run / "export" / "hf")
    assert found["clf"].classes_.tolist() == ["ham", "spam"]


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """mini with the prompt of an instruct run in the style chat, in Hugging Face's layout and in GGUF; and how we write."""
    from finetune.checkpoints.sources import load
    from finetune.export import gguf, hf
    from finetune.export.exportable import Conversation, Exportable
    from finetune.tasks.instruct.examples import conversation_ids
    from finetune.tasks.instruct.prompts import chat_template, markers
    from finetune.tasks.instruct.records import Dialogue, Message
    from finetune.tasks.instruct.settings import Instruct

    model, tokenizer = load("mini")
    settings = Instruct(style="chat")
    prompt = conversation_ids(Dialogue(0, [Message("user", QUESTION)]), tokenizer, settings)
    thing = Exportable(
        "run",
        model,
        tokenizer,
        lambda exported: exported.summary,
        tokenizer_settings={"chat_template": chat_template(settings), "split_special_tokens": False},
        generation={"do_sample": False, "max_new_tokens": 24},
        stop=[f"\n{marker}" for marker in markers(settings)],
        conversations=[Conversation([{"role": "user", "content": QUESTION}], prompt)],
    )
    folder = tmp_path_factory.mktemp("mini")
    for format in (hf, gguf):
        format.write(thing, folder / format.__name__.rpartition(".")[2])

    def write(ids: list[int], new: int) -> str:
        """Our greedy continuation."""
        end = tokenizer.end_of_text
        out = model.generate(torch.tensor([ids]), new, end=end, temperature=0.0)[0, len(ids) :].tolist()
        return tokenizer.decode([token for token in out if token != end])

    return SimpleNamespace(
        hf=folder / "hf", gguf=folder / "gguf", model=model, tokenizer=tokenizer, prompt=prompt, write=write
    )


def test_transformers_answers_as_chat_does(mini, tools):
    found = tools.run_guide("transformers", mini.hf, 1)
    [said] = found["answer"]([{"role": "user", "content": QUESTION}])
    assert said["generated_text"][-1]["content"] == mini.write(mini.prompt, 24)


def test_llama_cpp_answers_as_chat_does(mini, tools):
    found = tools.run_guide("llama.cpp and ollama", mini.gguf, replace={"a question": QUESTION})
    assert found["answer"]["choices"][0]["message"]["content"] == mini.write(mini.prompt, 24)


def test_ctranslate2_writes_as_generate_does(mini, tools, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    monkeypatch.chdir(tmp_path)
    found = tools.run_guide("CTranslate2", mini.hf)
    text, ids = "Once upon a time", found["found"].sequences_ids[0]
    prompt = mini.tokenizer.encode(text)
    assert ids[: len(prompt)] == prompt and len(ids) >= 24
    assert found["tokenizer"].decode(ids) == text + mini.write(prompt, len(ids) - len(prompt))


def test_lm_evaluation_harness_finds_our_bits_per_byte(mini, tools, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    texts = ["The sea was calm, and nobody spoke.", "Two and two are four.\nSo they say."]
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = tools.run_guide("lm-evaluation-harness", mini.hf)["found"]["results"]["mine"]
    end, nats = mini.tokenizer.end_of_text, 0.0
    for text in texts:
        ids = torch.tensor([[end, *mini.tokenizer.encode(text)]])
        with torch.inference_mode():
            logs = mini.model(ids[:, :-1]).log_softmax(-1)
        nats -= logs[0].gather(1, ids[0, 1:, None]).sum().item()
    assert found["bits_per_byte,none"] == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-5)


@pytest.mark.slow
def test_int8_says_its_cost_and_another_kind_is_refused(finetune, toy_copy):
    done = finetune("export", toy_copy, "--format", "onnx", "--quantize", "int8")
    assert done.status == 0 and "95 % " in done.out, done.err
    odd = finetune("export", toy_copy, "--format", "hf", "--quantize", "int8")
    assert odd.status == 2 and "got --quantize int8; known: no quantization" in odd.err


NAMES_ALONE = """
from finetune.export.exportable import Exported, draft_of, write_readme

MERGED = True


def write(thing, directory, base=None):
    with draft_of(directory) as draft:
        draft.mkdir(parents=True)
        (draft / "labels.txt").write_text(",".join(thing.labels))
        write_readme(draft, thing, "a list", library="none")
    return Exported(False, "a list of labels, not compared")
"""


def test_a_new_format_is_a_module_and_a_line_in_the_list(finetune, toy_copy, tmp_path, monkeypatch):
    (tmp_path / "names_alone.py").write_text(NAMES_ALONE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FORMATS, "names", "names_alone")
    done = finetune("export", toy_copy, "--format", "names")
    assert done.status == 0 and "export: a list of labels, not compared" in done.out, done.err
    directory = toy_copy / "export" / "names"
    assert (directory / "labels.txt").read_text() == "ham,spam" and not damage(directory)
    assert "known: hf, peft, onnx, gguf, html, names" in finetune("export", toy_copy, "--format", "other").err
    assert finetune("export", toy_copy, "--format", "names", "--quantize", "int8").status == 2

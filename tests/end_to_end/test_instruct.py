"""Instructions by the real command: learnt, measured, reported, exported and talked to."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TINY = [
    "--set",
    "weights=scratch",
    "--set",
    "shape.layers=2",
    "--set",
    "shape.width=32",
    "--set",
    "shape.context=96",
    "--set",
    "train.threads=1",
    "--set",
    "train.lr=0.01",
    "--set",
    "instruct.max_new_tokens=12",
]


def records():
    """Sixty pairs: the word after a colour is the answer."""
    return [
        {"instruction": f"Say {word}.", "input": colour, "output": word}
        for word in NUMBERS
        for colour in ("red", "green", "blue", "brown", "white", "black")
    ]


def write_records(lines, name="pairs.jsonl"):
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def trained(finetune, tmp_path):
    write_records(records())
    done = finetune("run", "instruct", "--set", "data=pairs.jsonl", *TINY, "--set", "train.epochs=8")
    assert done.status == 0, done.err
    return tmp_path / "runs" / "instruct"


def test_answers_are_learned_measured_reported_exported_and_given(trained, finetune, monkeypatch):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    evaluation = json.loads((trained / "eval.json").read_text())
    assert evaluation["task"] == "instruct" and evaluation["headline"]["metric"] == "exact_match"
    before, nearest = evaluation["baselines"]
    assert evaluation["metrics"]["log_loss"]["value"] < 0.5 * before["metrics"]["log_loss"]["value"]
    assert evaluation["metrics"]["well_formed"]["value"] > 0 and nearest["metrics"]["exact_match"]["n"] == 12

    theirs = GPT2LMHeadModel.from_pretrained(trained / "export" / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "export" / "hf")
    nats, tokens = 0.0, 0
    test = [json.loads(line) for line in (trained / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in test:
        asked = tokenizer(f"User: {record['instruction']}\n{record['input']}\nAssistant:")["input_ids"]
        answer = [*tokenizer(f" {record['output']}")["input_ids"], theirs.config.eos_token_id]
        ids = torch.tensor([[*asked, *answer]])
        with torch.no_grad():
            logits = theirs(ids, attention_mask=torch.ones_like(ids)).logits[0, len(asked) - 1 : -1]
        nats += F.cross_entropy(logits, ids[0, len(asked) :], reduction="sum").item()
        tokens += len(answer)
    assert evaluation["metrics"]["log_loss"]["value"] == pytest.approx(nats / tokens, rel=1e-4)
    assert finetune("export", "runs/instruct", "--format", "html").status == 0
    cost = json.loads((trained / "export" / "html" / "page.json").read_text())["cost"]
    assert cost["before"] == pytest.approx(nats / tokens, rel=1e-4) and cost["n"] == len(test)

    assert {path.name for path in (trained / "data").iterdir()} == {
        "card.json",
        *(
            f"{split}.{rest}"
            for split in ("train", "val", "test")
            for rest in ("jsonl", "text.ids", "text.ends", "pieces.ids", "pieces.ends")
        ),
    }
    rows = list(csv.DictReader(io.StringIO((trained / "answers.csv").read_text(encoding="utf-8"))))
    assert [int(row["row"]) for row in rows] == [record["row"] for record in test]
    assert [row["reference"] for row in rows] == [record["output"] for record in test]
    same = sum(row["answer"].split() == row["reference"].split() for row in rows) / len(rows)
    assert evaluation["metrics"]["exact_match"]["value"] == pytest.approx(same)
    html = (trained / "report" / "index.html").read_text(encoding="utf-8")
    assert all(
        part in html for part in ("Limitations", "Samples before and after", "of the loss before", "finetune chat")
    )
    assert html.count("<script") == 1

    monkeypatch.setattr("sys.stdin", io.StringIO("Say two.\n\n/nothing\n/reset\nSay two.\n/quit\nSay six.\n"))
    said = finetune("chat", trained, "--max-new-tokens", "6")
    assert said.status == 0 and len(set(said.out.splitlines())) == 1 and len(said.out.splitlines()) == 2
    assert "unknown command '/nothing'" in said.err and "conversation cleared" in said.err
    again = finetune("run", "instruct", "--set", "data=pairs.jsonl", *TINY, "--set", "train.epochs=8")
    assert "nothing left to do" in again.out and f"chat {Path('runs', 'instruct')}" in again.out
    assert "exact match" in again.out and "the model before training" in again.out


def test_records_stand_on_their_sides_in_the_files_order_and_repeats_are_counted(finetune, tmp_path):
    lines = records()
    write_records([*lines[:50], *lines[:10]])
    done = finetune(
        "run",
        "instruct",
        "--until",
        "prepare",
        "--set",
        "data=pairs.jsonl",
        *TINY,
        "--set",
        "split.protocol=ordered",
        "--set",
        "split.val_fraction=0.05",
        "--set",
        "split.test_fraction=0.1",
    )
    assert done.status == 0, done.err
    data = tmp_path / "runs" / "instruct" / "data"
    rows = {
        name: [json.loads(line)["row"] for line in (data / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test", "val")
    }
    assert rows == {"train": list(range(51)), "test": list(range(51, 57)), "val": list(range(57, 60))}
    assert "6 of 6 test questions also occur in train" in done.out and "3 of 3 val questions" in done.out


def test_malformed_records_are_listed_by_line_and_left_out_only_if_allowed(finetune, tmp_path):
    wrong = [
        {"instruction": "x"},
        {"instruction": "x", "output": ""},
        {"instruction": 3, "output": "y"},
        ["x"],
        {"instruction": "x", "output": {"text": "y"}},
        {"messages": [{"role": "user", "content": "x"}]},
    ]
    write_records([*records(), *wrong])
    command = ["run", "instruct", "--until", "prepare", "--set", "data=pairs.jsonl", *TINY]
    refused = finetune(*command)
    assert refused.status == 2 and "6 of 66 records are malformed" in refused.err
    assert "line 61: no 'output'" in refused.err
    done = finetune(*command, "--set", "instruct.malformed_fraction=0.1")
    assert done.status == 0 and "left out: line 62: 'output' is empty" in done.err and "expected: {" in done.err
    card = json.loads((tmp_path / "runs" / "instruct" / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["malformed"] == 6 and [line.split(":")[0] for line in card["malformed_records"]] == [
        f"line {number}" for number in range(61, 67)
    ]
    assert card["records"] == 60 == sum(part["records"] for part in card["splits"].values())


@pytest.mark.parametrize(
    "setting, words",
    [
        ("train.metric=accuracy", "not a validation metric of the task instruct"),
        ("split.protocol=balanced", "needs a labelled table"),
        ("columns.text=x", "read by the task classify"),
        ("validation=pairs.jsonl", "validation has no effect in instruct"),
        ("instruct.template=no place", "has no {instruction}"),
        ("train.method=head", "method head has nothing to train here"),
        ("data=nowhere.json", "nor an existing file"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_step(finetune, setting, words):
    write_records(records())
    wrong = finetune("run", "instruct", "--set", "data=pairs.jsonl", *TINY, "--set", setting)
    assert wrong.status == 2 and words in wrong.err and not list(Path().glob("runs/*/train.jsonl"))


def test_lora_trains_adapters_that_peft_reads(finetune, tmp_path):
    write_records(records())
    done = finetune(
        "run",
        "instruct",
        "--set",
        "data=pairs.jsonl",
        *TINY,
        "--set",
        "train.epochs=1",
        "--set",
        "train.method=lora",
        "--set",
        "instruct.style=alpaca",
        "--set",
        "shape.context=300",
    )
    assert done.status == 0, done.err
    exported = finetune("export", "runs/instruct", "--format", "peft")
    assert exported.status == 0 and "peft gives the same logits" in exported.out
    assert json.loads(Path("runs/instruct/export/peft/adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


def test_a_dry_run_says_what_it_would_take(finetune, tmp_path):
    write_records(records())
    found = finetune("run", "instruct", "--set", "data=pairs.jsonl", *TINY, "--dry-run")
    assert found.status == 0, found.err
    assert "measured: 3 optimizer steps" in found.out and "forward passes of evaluation" in found.out
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl"}
    absent = finetune("run", "instruct", "--set", "data=pairs.jsonl", "--set", "weights=gpt2", "--dry-run")
    assert absent.status == 0 and "records: 60; train 42 / val 6 / test 12" in absent.out
    assert "124,439,808" in absent.out and "steps: 55 of 4 rows" in absent.out


def test_chat_is_for_instruct_runs(toy_copy, finetune):
    wrong = finetune("chat", toy_copy)
    assert wrong.status == 2 and "not an instruct run" in wrong.err


def test_generate_says_that_it_applies_no_prompt_format(tmp_path, finetune):
    from finetune.checkpoints.store import write_checkpoint
    from finetune.models.gpt import GPT, GPTConfig
    from finetune.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bytes()
    write_checkpoint(tmp_path / "own", GPT(GPTConfig(257, 32, 16, 1, 2)).initialise(1), tokenizer)
    assert "finetune chat" not in finetune("generate", "own", "x", "--max-new-tokens", "2").err
    (tmp_path / "own" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    said = finetune("generate", "own", "x", "--max-new-tokens", "2")
    assert said.status == 0 and "continues the text as given. To apply the format: finetune chat RUN" in said.err

"""Compare llama.cpp's answers from an exported GGUF file with those of `finetune chat`, in every prompt style.

For each style a run of `instruct` on mini and the bundled sample is trained by the real command and exported in f32, f16
and q8_0: for one step, which gives long answers, or for more steps, which give real ones. The same 100 questions are
then answered greedily: by us in the conversation behind `finetune chat`, by llama.cpp (xllamacpp) with the chat template
in the file and the stop strings in the Modelfile. In the style chat, every second question is a second turn after the
previous answer. The loss is that of the dequantized file on the test records.

    python benchmarks/gguf_answers.py                       # a quarter of an hour on one thread
    python benchmarks/gguf_answers.py --steps 20            # as long again; keeps the other measurements
    python benchmarks/gguf_answers.py --styles chat         # one style

Writes gguf_answers.jsonl, and its table to README.md. Needs the extra `dev`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from few_labels import read_rows, write_section

from finetune.console import say
from finetune.export.gguf import FILE, read_gguf
from finetune.export.llama_cpp import open_server
from finetune.export.plain_reader import PlainReader
from finetune.files import atomic_write, read_json
from finetune.hub.assets import asset
from finetune.tasks.instruct.chat import Conversation, open_conversation
from finetune.tasks.instruct.examples import conversation_ids
from finetune.tasks.instruct.prompts import pieces
from finetune.tasks.instruct.records import Dialogue, Instruction, Message

STYLES = {
    "alpaca": ["instruct.style=alpaca"],
    "plain": ["instruct.style=plain"],
    "chat": ["instruct.style=chat"],
    "own template": ["instruct.template=Question: {instruction} {input}\nShort answer:"],
}
SETTINGS = ["weights=mini", "data=instruct-sample", "train.threads=1", "train.precision=fp32"]
SETTINGS += ["instruct.max_new_tokens=24", "split.test_fraction=0.1", "evaluate.resamples=100"]
WIDTHS = ("f32", "f16", "q8_0")
PROMPTS, NEW_TOKENS = 100, 48
ROWS = Path(__file__).with_suffix(".jsonl")
PAGE = Path(__file__).with_name("README.md")


def measure(folder: Path, style: str, steps: int) -> list[dict]:
    """Measure one style: a row per width."""
    run = folder / "runs" / "answers"
    settings = [word for pair in (*SETTINGS, *STYLES[style], f"train.max_steps={steps}") for word in ("--set", pair)]
    command(folder, "run", "instruct", "--name", "answers", *settings)
    asked = questions()
    conversation = open_conversation(run, NEW_TOKENS, temperature=0.0)
    ours, messages = converse(conversation, asked)
    rows = []
    for width in WIDTHS:
        quantize = [] if width == "f32" else ["--quantize", width]
        command(folder, "export", run, "--format", "gguf", *quantize, "--out", folder / width)
        theirs = answers(folder / width, messages, conversation.model.config.context)
        other = [at for at, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one != two]
        rows.append(
            {
                "style": style,
                "steps": steps,
                "width": width,
                "cache": "f32",
                "prompts": len(asked),
                "same": len(asked) - len(other),
                "empty": sum(not own for own in ours),
                "tokens": sum(len(conversation.tokenizer.encode(own)) for own in ours),
                "bytes": (folder / width / FILE).stat().st_size,
                "loss": loss(folder / width, run, conversation),
                "gaps": sorted(round(smallest_gap(conversation, messages[at]), 5) for at in other),
                "differing": [(ours[at], theirs[at]) for at in other[:3]],
            }
        )
        say(json.dumps(rows[-1], ensure_ascii=False))
    return rows


def command(folder: Path, *words: str | Path) -> None:
    """Run the real command in its own process."""
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *map(str, words)], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")


def questions() -> list[str]:
    """Different questions of the bundled sample at random, each in one line."""
    records = read_rows(asset("data", "instruct") / "sample.jsonl")
    found = dict.fromkeys(" ".join(f"{row['instruction']} {row.get('input', '')}".split()) for row in records)
    order = np.random.default_rng(0).permutation(len(found))
    return [list(found)[at] for at in order[:PROMPTS]]


def converse(conversation: Conversation, asked: list[str]) -> tuple[list[str], list[list[dict[str, str]]]]:
    """Our answers, and the messages before each. If the style supports several turns, every second question is a second turn."""
    ours, before = [], []
    for number, question in enumerate(asked):
        if number % 2 == 0:
            conversation.messages.clear()
        said: list[str] = []
        conversation.ask(question, said.append)
        history = conversation.messages[:-1]
        before.append([{"role": own.role, "content": own.content} for own in history])
        ours.append(conversation.messages[-1].content)
    return ours, before


def answers(directory: Path, messages: list[list[dict[str, str]]], context: int) -> list[str]:
    """llama.cpp's answers, with the file's chat template and the Modelfile's stop strings."""
    modelfile = (directory / "Modelfile").read_text(encoding="utf-8")
    stop = re.findall(r'^PARAMETER stop """(.*?)"""$', modelfile, flags=re.M | re.S)
    server = open_server(directory / FILE, context)
    options = {"temperature": 0.0, "max_tokens": NEW_TOKENS, "cache_prompt": False, "stop": stop}
    return [
        str(server.handle_chat_completions({"messages": said, **options})["choices"][0]["message"]["content"]).strip()
        for said in messages
    ]


def smallest_gap(conversation: Conversation, messages: list[dict[str, str]]) -> float:
    """The smallest logit margin between a token of our answer and the second-best token."""
    said = Dialogue(0, [Message(**own) for own in messages])
    prompt = conversation_ids(said, conversation.tokenizer, conversation.settings)
    end = conversation.tokenizer.end_of_text
    ids = conversation.model.generate(torch.tensor([prompt]), NEW_TOKENS, end=end, temperature=0.0)
    with torch.inference_mode():
        best = conversation.model(ids[:, :-1])[0, len(prompt) - 1 :].topk(2).values
    return float((best[:, 0] - best[:, 1]).min())


def loss(directory: Path, run: Path, conversation: Conversation) -> float:
    """Nats per token of the answers of the test records, read from the file by plain numpy."""
    config = read_json(run / "export" / "hf" / "config.json")
    reader = PlainReader(directory, read_gguf(directory / FILE), config)
    nats = count = 0.0
    for row in read_rows(run / "data" / "test.jsonl"):
        record = Instruction(row["row"], row["instruction"], row["input"], row["output"])
        prompt, answer = (conversation.tokenizer.encode(part.text) for part in pieces(record, conversation.settings))
        ids = np.array([*prompt, *answer, conversation.tokenizer.end_of_text])
        logits = reader.next_token_logits(ids[None, :-1])[0].astype(np.float64)
        picked = logits[np.arange(len(logits)), ids[1:]] - np.logaddexp.reduce(logits, axis=1)
        nats -= picked[len(prompt) - 1 :].sum()
        count += len(answer) + 1
    return nats / count


def table(rows: list[dict]) -> str:
    """The section of README.md."""
    f32 = {(row["style"], row["steps"]): row for row in rows if row["width"] == "f32"}
    lines = [
        "## llama.cpp beside `finetune chat`",
        "",
        "`python benchmarks/gguf_answers.py`: for each prompt style a run of `instruct` on mini and the bundled sample, "
        "exported with `--format gguf`. "
        f"{PROMPTS} questions, answered greedily with at most {NEW_TOKENS} tokens: ours in the conversation behind "
        "`finetune chat`, llama.cpp's through the file's chat template and the Modelfile's stop strings. Steps: of training; "
        "after one the answers are running text, and f16 rounds much of the step away. Cache: in what llama.cpp keeps keys "
        "and values. Tokens: of our answers together. Loss: nats per token of the answers to the test records.",
        "",
        "| style | steps | weights | cache | MB | equal answers | tokens | loss | loss minus f32's |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    order = [(style, width) for style in STYLES for width in WIDTHS]
    for row in sorted(rows, key=lambda row: (row["steps"], order.index((row["style"], row["width"])))):
        more = row["loss"] - f32[row["style"], row["steps"]]["loss"]
        values = [
            row["style"],
            str(row["steps"]),
            row["width"],
            row["cache"],
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['same']} of {row['prompts']}",
            f"{row['tokens']:,}",
            f"{row['loss']:.4f}",
            f"{round(more, 4) + 0.0:+.4f}",
        ]
        lines.append("| " + " | ".join(values) + " |")
    gaps = [gap for row in f32.values() for gap in row["gaps"]]
    if gaps:
        lines += [
            "",
            "Where an answer in f32 is another, our likeliest token is at its closest only "
            f"{', '.join(f'{gap:.4f}' for gap in gaps)} above the next: llama.cpp looks GELU up in a table of f16.",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure the styles asked for, keep the other rows, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--styles", nargs="+", choices=[*STYLES], default=[*STYLES])
    parser.add_argument("--steps", type=int, default=1, help="of training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for style in arguments.styles:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), style, arguments.steps)
        kept = [row for row in read_rows(ROWS) if (row["style"], row["steps"]) != (style, arguments.steps)]
        rows = kept + found
        with atomic_write(ROWS) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_section(PAGE, "gguf_answers", table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

"""Time and memory for a large table: check, split and tokenize it, each in its own process.

    python benchmarks/million_rows.py [ROWS] [--step STEP]

Writes a CSV of ROWS rows of about 100 characters to a temporary folder (every 20th row repeats an earlier text, half of
these with a word changed), runs each step in a fresh process and prints seconds and peak memory as JSON. `prepare` is
the stage without writing its files, `encode` creates the ids that training reads, and `check` is `finetune data check`.
`predict` and `evaluate` are the commands, with mini's tokenizer and a model of one small layer with random weights: a
real model adds its own memory, and takes far longer.
"""

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = ("read", "near-duplicates", "prepare", "encode", "check", "predict", "evaluate")


def write_table(path: Path, rows: int) -> None:
    """Rows of words from a heavy-tailed distribution, as in language, with three labels."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 9))) for _ in range(20_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    drawn = iter(())
    kept: list[str] = []
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            if row % 20 == 0 and kept:  # row % 40: with a word changed
                text = source.choice(kept)
                if row % 40:
                    parts = text.split()
                    parts[source.randrange(len(parts))] = source.choice(words)
                    text = " ".join(parts)
            else:
                parts = []
                while sum(map(len, parts)) + len(parts) < 100:
                    word = next(drawn, None)
                    if word is None:
                        drawn = iter(source.choices(words, weights, k=100_000))
                        continue
                    parts.append(word)
                text = " ".join(parts)
                if row % 50 == 1:
                    kept.append(text)
            writer.writerow([text, "abc"[source.choice((0, 0, 0, 1, 1, 2))]])


def write_bundle(directory: Path) -> Path:
    """A small, fast, untrained classifier of the table's labels."""
    from finetune.checkpoints.store import write_checkpoint
    from finetune.hub.assets import asset
    from finetune.models.gpt import GPT, GPTConfig
    from finetune.tasks.classify.job import build_model
    from finetune.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_directory(asset("weights", "mini"))
    model = build_model(GPT(GPTConfig(tokenizer.vocab_size, 64, 16, 1, 1)).initialise(0), 3, seed=0)
    card = {
        "labels": list("abc"),
        "positive": None,
        "max_length": 64,
        "threshold": None,
        "temperature": 1.0,
        "tokenizer_sha256": tokenizer.fingerprint(),
    }
    write_checkpoint(directory, model, tokenizer, extra_files={"bundle.json": json.dumps(card)})
    return directory


def run_step(step: str, path: Path) -> dict:
    """Run one step in this process. Returns its figures."""
    from finetune.hub.assets import asset
    from finetune.tables.readers import read_labelled

    start = time.monotonic()
    figures: dict = {"step": step}
    if step == "check":
        from finetune.tasks.classify.check import check_file

        figures |= check_file(str(path)).to_json()["duplicates"]
    elif step == "predict":
        from finetune.tasks.classify.bundle import Bundle, predict_table

        figures |= predict_table(Bundle.load(write_bundle(path.parent / step)), path, path.with_name("out.csv"), None)
    elif step == "evaluate":
        from finetune.tasks.classify.score_file import score_file

        figures["accuracy"] = score_file(write_bundle(path.parent / step), path, None, None)[1].split()[1]
    else:
        table = read_labelled(path, None, None)
        figures["rows"] = len(table.rows)
        if step == "near-duplicates":
            from finetune.tables.near_duplicates import find_near_duplicates
            from finetune.tables.splits import text_keys

            near = find_near_duplicates(table.texts, text_keys(table.texts))
            figures |= {"near_rows": len(near.rows()), "compared": near.compared}
        elif step in ("prepare", "encode"):
            from finetune.recipe import Recipe
            from finetune.tasks.classify.data import prepare
            from finetune.tokenizer import Tokenizer
            from finetune.training.token_rows import encode

            tokenizer = Tokenizer.from_directory(asset("weights", "mini"))
            if step == "encode":
                figures["tokens"] = len(encode(tokenizer, table.texts, 256).ids)
            else:
                records, card = prepare(Recipe(), table, tokenizer, 256)
                figures |= {name: len(rows) for name, rows in records.items()} | {"tokens": card.tokens.total}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return figures | {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mb": used.ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--step", choices=STEPS, action="append")
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.table:
        print(json.dumps(run_step(asked.step[0], asked.table)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_table(path, asked.rows)
        print(json.dumps({"rows": asked.rows, "megabytes": round(path.stat().st_size / 1e6, 1)}), flush=True)
        for step in asked.step or STEPS:
            answer = subprocess.run(
                [sys.executable, __file__, "--table", str(path), "--step", step],
                text=True,
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
            print(answer.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

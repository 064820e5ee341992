"""Stage ``prepare``: rows read, checked, split and counted in tokens."""

import json

from finetune.console import say, warn
from finetune.datasets.readers import listed
from finetune.datasets.sources import locate_text, read_data
from finetune.errors import RecipeError
from finetune.files import atomic_write, write_json
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.stages.convert import base_weights
from finetune.tasks import classify, pretrain
from finetune.tokenizer import Tokenizer

OUTPUTS = ["data/*"]


def run(recipe: Recipe, run: Run) -> dict:
    """Write the task's data files and data/card.json."""
    return {"classify": _classify, "pretrain": _pretrain}[recipe.task](recipe, run)


def _pretrain(recipe: Recipe, run: Run) -> dict:
    """data/train.bin and data/val.bin: token ids, mapped into memory by the training."""
    data = locate_text(recipe.data)
    tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
    run.path("data").mkdir(exist_ok=True)
    card = pretrain.write_tokens(data.path, run.path("data"), tokenizer, recipe.pretrain, recipe.split.seed)
    if recipe.pretrain.eval_data:
        card["eval"] = pretrain.write_evaluation_tokens(locate_text(recipe.pretrain.eval_data).path, run.path("data"),
                                                        tokenizer)
    write_json(run.path("data", "card.json"), run.result("download")["data"] | card)
    say(f"text: {card['documents']['train']:,} documents of {card['tokens']['train']:,} tokens to train on, "
        f"{card['documents']['val']:,} of {card['tokens']['val']:,} held out; "
        f"{card['bytes']['train'] / card['tokens']['train']:.2f} bytes a token")
    return {"documents": card["documents"], "tokens": card["tokens"], "bytes": card["bytes"]}


def _classify(recipe: Recipe, run: Run) -> dict:
    """data/{train,val,test}.jsonl."""
    source = read_data(recipe)
    for note in source.notes:
        say(note)
    positive_label(recipe, sorted(set(source.labels)))
    tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
    records, card = classify.prepare(recipe, source, tokenizer, run.result("convert")["context"])
    for name, rows in records.items():
        with atomic_write(run.path("data", f"{name}.jsonl")) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_json(run.path("data", "card.json"), run.result("download")["data"] | card)
    sizes = " / ".join(f"{name} {card['splits'][name]['rows']:,}" for name in card["splits"])
    labels = ", ".join(f"{label} {count:,}" for label, count in list(card["labels"].items())[:6])
    tokens = card["tokens"]
    say(f"rows: {card['rows']:,} ({labels}); {card['protocol']} split, seed {card['seed']}: {sizes}")
    say(f"tokens a text: median {tokens['median']}, 95 % within {tokens['p95']}, longest {tokens['max']}; "
        f"{tokens['cut_rows']} cut at {tokens['max_length']}")
    for reason, count in card["dropped"].items():
        say(f"note: {count} rows left out: {reason}")
    for finding in card["checks"]:
        if finding["level"] != "note" and finding["check"].replace("_", " ") not in card["dropped"]:
            warn(f"{finding['what']}. {finding['do']}")
    if near := card["near_duplicates"]["test_rows_near_train"]:
        warn(f"{near:,} of {card['splits']['test']['rows']:,} test rows are almost the same as a training row "
             "(see: finetune data check FILE)")
    return {"rows": card["rows"], "labels": sorted(card["labels"]), "max_length": tokens["max_length"],
            "splits": {name: part["rows"] for name, part in card["splits"].items()}}


def positive_label(recipe: Recipe, labels: list[str]) -> int | None:
    """The index of the positive one of two labels, the last in sorted order by default; none for more labels.

    Raises RecipeError where `evaluate` asks for what these labels cannot give: known before anything is trained.
    """
    wanted = recipe.evaluate
    asks = {"evaluate.metric=f1": wanted.metric == "f1", "evaluate.threshold=max-f1": wanted.threshold == "max-f1",
            "evaluate.positive": wanted.positive is not None}
    if len(labels) > 2:
        for setting in (name for name, asked in asks.items() if asked):
            raise RecipeError(f"{setting} is for two labels", got=listed(labels),
                              do="Leave it out; with more labels use --set evaluate.metric=f1_macro or accuracy.")
        return None
    if wanted.positive is None:
        return 1
    if wanted.positive not in labels:
        raise RecipeError("evaluate.positive is no label of this data", got=repr(wanted.positive),
                          known=listed(labels), do="Give one of them, or leave it out.")
    return labels.index(wanted.positive)


def read_records(run: Run, split: str) -> list[dict]:
    """The records that `prepare` left for a split."""
    with open(run.path("data", f"{split}.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]

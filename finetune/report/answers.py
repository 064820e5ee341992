"""The page of a model that answers instructions: its answers beside two other ways to answer, and its limits."""

import shlex

from finetune.evaluation.answers import COMPARED, NEAREST, SHORT, UNTUNED
from finetune.evaluation.score import metric_interval, metric_text, metric_value, p_text
from finetune.report.blocks import (
    NONE,
    Code,
    Section,
    Table,
    Text,
    facts,
    metric_cell,
    metric_name,
    percent,
    sentence,
    value_text,
)
from finetune.report.page import Files, fallback_notice, make_page
from finetune.report.provenance import origin, training

SMALL = 40_000_000  # parameters below which a model knows next to nothing
_LISTED = 20
_SHOWN = 600  # characters of a text among the samples
_LOWER = {"log_loss", "perplexity", "repetition"}
_NAMES = {"log_loss": "Loss (nats a token)"}
_SHORT_NAMES = {UNTUNED: "before training", NEAREST: "the answer to the nearest training question"}
_COLUMNS = {UNTUNED: "Before", NEAREST: "Nearest"}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def page(files: Files) -> dict:
    """The report, in order."""
    evaluation, trained = files.evaluation, files.trained()
    sections = [comparison(evaluation), losses(evaluation), samples(evaluation), limits(evaluation, trained),
                training(files.log, trained), data_card(files.card)]
    said = verdict(evaluation).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")
    return make_page(files, "Instruction report", said, tiles(evaluation), sections,
                     use=[use(files.name, files.card)], notice=fallback_notice(files))


def verdict(evaluation: dict) -> str:
    """What the numbers say, no more than they carry."""
    headline, metrics = evaluation["headline"]["metric"], evaluation["metrics"]
    where = f" on held-out questions whose answer has {SHORT} words or fewer"
    said = [f"{_name(name)} {metric_text(metrics[name], name)}{where if name == 'identical' else ''}; "
            + "; ".join(_against(entry, name) for entry in evaluation["baselines"]) + "."
            for name in dict.fromkeys([headline, "rouge_l"])]
    loss = next(row for row in evaluation["losses"] if (row["split"], row["on"]) == ("test", "answer"))
    said.append(f"Loss on the answers: {loss['before']['value']:.3f} nats a token before training, "
                f"{loss['after']['value']:.3f} after.")
    if overlapping := metrics["rouge_l"]["n"] - evaluation["clean"]["n"]:
        alone = evaluation["clean"]["metrics"].get(headline)
        said.append(f"{overlapping:,} test questions stand in train or validation too"
                    + (f"; without them: {metric_text(alone, headline)}." if alone else "."))
    return " ".join(said)


def _against(entry: dict, metric: str) -> str:
    """A baseline's figure, and whether the model is better, worse or neither."""
    difference, value = entry["differences"][metric], metric_value(metric, entry["metrics"][metric]["value"])
    points, p = 100 * difference["value"], p_text(difference["p_value"])
    if points == 0 or difference["p_value"] >= 0.05:
        return f"{_SHORT_NAMES[entry['name']]} {value} (no more than noise apart, {p})"
    return (f"{_SHORT_NAMES[entry['name']]} {value} (the model is {'better' if points > 0 else 'worse'} by "
            f"{abs(points):.1f} points, {p})")


def tiles(evaluation: dict) -> list[dict]:
    """The figures at the top, the headline first."""
    metrics, headline = evaluation["metrics"], evaluation["headline"]["metric"]
    names = dict.fromkeys([headline, "log_loss", "rouge_l", "well_formed"])
    before = next(entry for entry in evaluation["baselines"] if entry["name"] == UNTUNED)["metrics"]
    return [{"name": _name(name), "value": metric_value(name, metrics[name]["value"]),
             "interval": metric_interval(name, metrics[name]),
             "note": f"test, n = {metrics[name]['n']:,}; before {metric_value(name, before[name]['value'])}"}
            for name in names]


def comparison(evaluation: dict) -> Section:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    metrics, baselines = evaluation["metrics"], evaluation["baselines"]
    rows = [[_name(name) + (_arrow(name)), _cell(name, entry),
             *(_cell(name, other["metrics"][name]) if name in other["metrics"] else NONE for other in baselines)]
            for name, entry in metrics.items()]
    columns = ["Metric", "This model", *(_COLUMNS[entry["name"]] for entry in baselines)]
    tested = [[_name(name) + _arrow(name), *(_difference(name, entry["differences"].get(name)) for entry in baselines)]
              for name in (*COMPARED, "log_loss")]
    heads = [f"Model minus\n{_COLUMNS[entry['name']].lower()}" for entry in baselines]
    short = metrics["identical"]["n"]
    notes = (f"Before: {UNTUNED}. Nearest: {NEAREST}. Exact match and token F1 are over the {short:,} of "
             f"{metrics['rouge_l']['n']:,} test records whose reference has {SHORT} words or fewer: a longer answer "
             "can be right in other words. Exact match forgives white space alone, SQuAD's case, punctuation and "
             "articles too. ROUGE-L: the longest run of words in common, in order, whatever stands between them. "
             "Repetition: the share of an answer's four-word sequences that it had already. Came to an end: with the "
             "end token, within the budget of tokens. Format kept: that, not empty, and without a line that goes on as "
             "a prompt. Length ratio: words of all answers over words of all references. "
             "\N{DOWNWARDS ARROW} lower is better.")
    return Section("results", "Answers and baselines", [
        Table("Test records, with 95 % intervals", columns, rows, frozenset(range(1, len(columns)))),
        Table("Differences on the same records", ["Metric", *heads], tested, frozenset(range(1, 1 + len(heads)))),
        Text("Differences are in points, those of the loss in nats, with intervals and p of the paired bootstrap: "
             "below 0.05 a difference is more than noise.", small=True), Text(notes, small=True)])


def losses(evaluation: dict) -> Section:
    """What is learnt, before and after."""
    on = {"answer": "answers", "words": "answers without their ends", "all": "prompts and answers"}
    rows = [[f"{_SPLITS[row['split']].capitalize()}, {on[row['on']]}", _loss_cell(row["before"]),
             f"{_loss_cell(row['after'])}\n{percent(row['after']['value'], row['before']['value'])} of before"]
            for row in evaluation["losses"]]
    note = ("An answer's end is learnt like its words. Before training a model hardly expects it after a few words, so "
            "where answers are short some of the fall is that it has learnt to stop.")
    if any(row["on"] == "all" for row in evaluation["losses"]):
        note += (" With the prompts, most of the fall is their fixed words, which every record repeats; the loss on "
                 "the answers is the one that tells.")
    return Section("losses", "Loss before and after", [
        Table("Nats a token, with 95 % intervals", ["", "Before", "After"], rows, frozenset({1, 2})),
        Text(note, small=True)])


def samples(evaluation: dict) -> Section:
    """Some test records, one under the other, which a narrow screen can show."""
    blocks: list = [Text("Test records at even distances in the file, not chosen by how they came out. All answers are "
                         "the likeliest tokens one by one (greedy). answers.csv in the run has every test record.")]
    for number, entry in enumerate(evaluation["samples"], start=1):
        pairs = [("Question", entry["question"]), ("Reference", entry["reference"]), ("Before", entry["untuned"]),
                 ("After", entry["answer"]), ("Nearest", entry["nearest"])]
        blocks += facts(f"Sample {number}", [(name, _shorten(text)) for name, text in pairs])
    return Section("samples", "Samples before and after", blocks)


def limits(evaluation: dict, trained: dict) -> Section:
    """What the figures do not say, and what a model of this size cannot do."""
    parameters, n = trained.get("parameters"), evaluation["headline"]["n"]
    blocks = [Text("The held-out questions are of the kinds that it was trained on. The figures say how well it learnt "
                   "those, not how well it follows instructions.")]
    if parameters is not None and parameters < SMALL:
        blocks.append(Text(
            f"A model of {parameters / 1e6:.1f} million parameters learns the form of an answer, its length and where "
            "it ends, long before the content. It knows next to nothing: no facts beyond common words, no arithmetic, "
            "no advice; and it copies badly from a question. To an instruction of another kind it gives something of "
            "the right shape and the wrong content. Use it to see that the training works, and for nothing else."))
    blocks.append(Text(
        "No figure here measures truth. An answer that shares most of its words with the reference can be wrong by the "
        "one that it does not share, and ROUGE-L hardly sees it. Nothing was done to make answers polite or safe."))
    if n < 200:
        blocks.append(Text(f"With {n:,} records the headline's interval is wide: another split would give another "
                           "figure."))
    return Section("limits", "What it cannot do", blocks)


def data_card(card: dict) -> Section:
    """Where the records come from, how they are divided and worded, and what was cut or left out."""
    tokens = card.get("tokens") or {}
    pairs = [*origin(card), ("Records", card.get("records")), ("Malformed, left out", card.get("malformed")),
             ("Different questions", card.get("different_questions")), ("Protocol", card.get("protocol")),
             ("Split seed", card.get("seed") if card.get("protocol") == "grouped" else None),
             ("Prompt style", card.get("style")),
             ("Tokens of an example", f"median {tokens['median']}, 95 % have at most {tokens['p95']}, longest "
              f"{tokens['max']}" if tokens else None),
             ("Cut at", f"{tokens['max_length']:,} tokens" if tokens else None),
             ("Prompts cut at their beginning", _rows(tokens.get("cut"), card.get("cut_rows"))),
             ("Left out, the answer alone is too long", _rows(tokens.get("left_out"), card.get("left_out_rows")))]
    blocks = facts("Source and checks", pairs)
    if splits := card.get("splits"):
        keys = {"records": "Records", "used": "Used", "tokens": "Tokens", "learnt_tokens": "Learnt tokens"}
        blocks.append(Table("Size of each split", ["", *keys.values()],
                            [[_SPLITS[name], *(value_text(part[key]) for key in keys)]
                             for name, part in splits.items()],
                            frozenset(range(1, 5))))
    if card.get("example"):
        learnt = "all of it" if card.get("loss_on") == "all" else "the answer"
        blocks += [Text(f"A training example as the model reads it. What it learns is {learnt} and the end token that "
                        "follows."), Code(_shorten(card["example"]))]
    if malformed := card.get("malformed_records"):
        blocks.append(Table(f"Malformed records{f', the first {_LISTED}' if len(malformed) > _LISTED else ''}",
                            ["Where", "What is wrong"],
                            [line.partition(": ")[::2] for line in malformed[:_LISTED]], prose=1))
    blocks += [Text(sentence(note)) for note in card.get("notes") or []]
    return Section("data", "Data", blocks or [Text("The run has no data card.")])


def use(name: str, card: dict) -> Section:
    """How to ask it, here and elsewhere."""
    run = f"runs/{name}"
    return Section("use", "How to use it", [
        Text("On the command line, in the prompt style that it was trained on:"),
        Code(f"finetune chat {shlex.quote(run)}"),
        Text("With transformers alone, the prompt is yours to write, word for word as in training:"),
        Code("from transformers import pipeline\n\n"
             f"write = pipeline(\"text-generation\", model={run + '/export/hf'!r})\n"
             f"write({card.get('prompt', '')!r}, max_new_tokens=64, do_sample=False)")])


def _name(metric: str) -> str:
    return _NAMES.get(metric, metric_name(metric))


def _arrow(metric: str) -> str:
    return "\u00a0\N{DOWNWARDS ARROW}" if metric in _LOWER else ""


def _cell(metric: str, entry: dict) -> str:
    """The value, and under it the interval; a perplexity in the digits that it deserves."""
    if metric != "perplexity":
        return metric_cell(metric, entry)
    value, low, high = (f"{entry[key]:,.{0 if entry[key] >= 100 else 1}f}" for key in ("value", "low", "high"))
    return f"{value}\n({low} to {high})"


def _difference(metric: str, entry: dict | None) -> str:
    """The difference with its interval, and p; in points but for the loss."""
    if entry is None:
        return NONE
    scale, digits = (1, 3) if metric == "log_loss" else (100, 1)
    value, low, high = (f"{scale * entry[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{value}\n({low} to {high})\n{p_text(entry['p_value'])}"


def _loss_cell(entry: dict) -> str:
    return f"{entry['value']:.3f}\n({entry['low']:.3f} to {entry['high']:.3f})"


def _rows(count: int | None, rows: list[int] | None) -> str | None:
    """How many records, and which."""
    if not count:
        return None if count is None else "0"
    listed = ", ".join(map(str, (rows or [])[:_LISTED]))
    return f"{count:,} (records {listed}{' and more' if count > _LISTED else ''}; the first of the file is 0)"


def _shorten(text: str) -> str:
    """A text of bounded length, its line breaks kept."""
    text = text or "(nothing)"
    return text if len(text) <= _SHOWN else text[:_SHOWN - 1] + "\N{HORIZONTAL ELLIPSIS}"

"""The page of a model that answers instructions: its answers beside two other ways to answer, and its limits."""

import shlex

from finetune.report.blocks import Code, Section, Table, Text, facts, metric_name, sentence, value_text
from finetune.report.metric_text import metric_text
from finetune.report.page import Files, fallback_notice, make_page
from finetune.report.provenance import origin, training
from finetune.report.written import (
    LISTED,
    SPLITS,
    against,
    beside_baselines,
    comparison_tables,
    loss_table,
    row_list,
    shorten,
    tiles,
    without_overlap,
)
from finetune.tasks.instruct.score import COMPARED, NEAREST, SHORT, UNTUNED

SMALL = 40_000_000  # parameters below which a model knows next to nothing
_NAMES = {"log_loss": "Loss (nats a token)"}
_SHORT_NAMES = {UNTUNED: "before training", NEAREST: "the answer to the nearest training question"}
_COLUMNS = {UNTUNED: "Before", NEAREST: "Nearest"}


def page(files: Files) -> dict:
    """The report, in order."""
    evaluation, trained = files.evaluation, files.trained()
    sections = [comparison(evaluation), losses(evaluation), samples(evaluation), limits(evaluation, trained),
                training(files.log, trained), data_card(files.card)]
    said = verdict(evaluation).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")
    top = tiles(evaluation, [evaluation["headline"]["metric"], "log_loss", "rouge_l", "well_formed"], _name, UNTUNED)
    return make_page(files, "Instruction report", said, top, sections,
                     use=[use(files.name, files.card)], notice=fallback_notice(files))


def verdict(evaluation: dict) -> str:
    """What the numbers say, no more than they carry."""
    headline, metrics = evaluation["headline"]["metric"], evaluation["metrics"]
    where = f" on held-out questions whose answer has {SHORT} words or fewer"
    said = [f"{_name(name)} {metric_text(metrics[name], name)}{where if name == 'exact_match' else ''}; "
            + "; ".join(against(entry, name, _SHORT_NAMES[entry["name"]]) for entry in evaluation["baselines"]) + "."
            for name in dict.fromkeys([headline, "rouge_l"])]
    loss = next(row for row in evaluation["losses"] if (row["split"], row["on"]) == ("test", "answer"))
    said.append(f"Loss on the answers: {loss['before']['value']:.3f} nats a token before training, "
                f"{loss['after']['value']:.3f} after.")
    return " ".join(said + without_overlap(evaluation, "questions"))


def comparison(evaluation: dict) -> Section:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    metrics = evaluation["metrics"]
    short = metrics["exact_match"]["n"]
    notes = (f"Before: {UNTUNED}. Nearest: {NEAREST}. Exact match and token F1 are over the {short:,} of "
             f"{metrics['rouge_l']['n']:,} test records whose reference has {SHORT} words or fewer: a longer answer "
             "can be right in other words. Exact match forgives white space alone, SQuAD's case, punctuation and "
             "articles too. ROUGE-L: the longest run of words in common, in order, whatever stands between them. "
             "Repetition: the share of an answer's four-word sequences that it had already. Came to an end: with the "
             "end token, within the budget of tokens. Format kept: that, not empty, and without a line that goes on as "
             "a prompt. Length ratio: words of all answers over words of all references. "
             "\N{DOWNWARDS ARROW} lower is better.")
    tables = comparison_tables(evaluation, [*COMPARED, "log_loss"], _name, _COLUMNS, "records")
    return Section("results", "Answers and baselines", [*tables, Text(notes, small=True)])


def losses(evaluation: dict) -> Section:
    """What is learnt, before and after."""
    on = {"answer": "answers", "words": "answers without their ends", "all": "prompts and answers"}
    rows = [(f"{SPLITS[row['split']].capitalize()}, {on[row['on']]}", row) for row in evaluation["losses"]]
    note = ("An answer's end is learnt like its words. Before training a model hardly expects it after a few words, so "
            "where answers are short some of the fall is that it has learnt to stop.")
    if any(row["on"] == "all" for row in evaluation["losses"]):
        note += (" With the prompts, most of the fall is their fixed words, which every record repeats; the loss on "
                 "the answers is the one that tells.")
    return Section("losses", "Loss before and after", [loss_table(rows), Text(note, small=True)])


def samples(evaluation: dict) -> Section:
    """Some test records, one under the other, which a narrow screen can show."""
    blocks: list = [Text("Test records at even distances in the file, not chosen by how they came out. All answers are "
                         "the likeliest tokens one by one (greedy). answers.csv in the run has every test record.")]
    for number, entry in enumerate(evaluation["samples"], start=1):
        pairs = [("Question", entry["question"]), ("Reference", entry["reference"]), ("Before", entry["untuned"]),
                 ("After", entry["answer"]), ("Nearest", entry["nearest"])]
        blocks += facts(f"Sample {number}", [(name, shorten(text)) for name, text in pairs])
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
             ("Prompts cut at their beginning", row_list(tokens.get("cut"), card.get("cut_rows"), "records")),
             ("Left out, the answer alone is too long", row_list(tokens.get("left_out"), card.get("left_out_rows"),
                                                                 "records"))]
    blocks = facts("Source and checks", pairs)
    if splits := card.get("splits"):
        keys = {"records": "Records", "used": "Used", "tokens": "Tokens", "learnt_tokens": "Learnt tokens"}
        blocks.append(Table("Size of each split", ["", *keys.values()],
                            [[SPLITS[name], *(value_text(part[key]) for key in keys)]
                             for name, part in splits.items()],
                            frozenset(range(1, 5))))
    if card.get("example"):
        learnt = "all of it" if card.get("loss_on") == "all" else "the answer"
        blocks += [Text(f"A training example as the model reads it. What it learns is {learnt} and the end token that "
                        "follows."), Code(shorten(card["example"]))]
    if malformed := card.get("malformed_records"):
        blocks.append(Table(f"Malformed records{f', the first {LISTED}' if len(malformed) > LISTED else ''}",
                            ["Where", "What is wrong"],
                            [line.partition(": ")[::2] for line in malformed[:LISTED]], prose=1))
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


def answers_table(evaluation: dict) -> list[str]:
    """A model's answers and those of its baselines."""
    names = {"exact_match": "exact match", "rouge_l": "ROUGE-L", "log_loss": "loss"}
    metrics = evaluation["metrics"]
    return [f"test records: {metrics['rouge_l']['n']:,}, {metrics['exact_match']['n']:,} of them with a short answer "
            "(for exact match); 95 % intervals in brackets", *beside_baselines(evaluation, names)]

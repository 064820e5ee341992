"""The page of a model that writes targets for sources: its outputs beside other ways to write them, and its limits."""

import shlex

from finetune.report import plots
from finetune.report.blocks import Code, Figure, Section, Table, Text, facts, metric_name, sentence, value_text
from finetune.report.metric_text import metric_text
from finetune.report.page import Files, fallback_notice, make_page
from finetune.report.provenance import origin, overlap_table, training
from finetune.report.written import (
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
from finetune.tasks.seq2seq.score import COMPARED, COPY, NEAREST, UNTUNED

SMALL = 40_000_000  # parameters below which a model knows next to nothing
FEW = 200  # test pairs below which the headline's interval is wide
MAPS = 3
MOST_TOKENS = 40  # of a side of an attention map
_NAMES = {"log_loss": "Loss (nats a token)", "exact_match": "Exact match"}
_SHORT_NAMES = {UNTUNED: "before training", NEAREST: "the target of the nearest training source",
                COPY: "the source copied"}
_COLUMNS = {UNTUNED: "Before", NEAREST: "Nearest", COPY: "Copy"}


def page(files: Files) -> dict:
    """The report, in order."""
    evaluation, trained = files.evaluation, files.trained()
    sections = [comparison(evaluation), losses(evaluation), samples(evaluation),
                *attention(files.attention, evaluation["family"]), limits(evaluation, trained, files.recipe),
                training(files.log, trained), data_card(files.card)]
    said = verdict(evaluation).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")
    top = tiles(evaluation, [evaluation["headline"]["metric"], "chrf", "bleu", "exact_match", "log_loss"], _name,
                UNTUNED)
    return make_page(files, "Source to target report", said, top, sections, use=[use(files.name, evaluation)],
                     notice=fallback_notice(files))


def verdict(evaluation: dict) -> str:
    """What the numbers say, no more than they carry."""
    headline, metrics = evaluation["headline"]["metric"], evaluation["metrics"]
    where = " on held-out sources"
    said = [f"{_name(name)} {metric_text(metrics[name], name)}{where if name == headline else ''}; "
            + "; ".join(against(entry, name, _SHORT_NAMES[entry["name"]]) for entry in evaluation["baselines"]
                        if not _is_plain(entry, name)) + "."
            for name in dict.fromkeys([headline, "chrf"])]
    if loss := next((row for row in evaluation["losses"] if row["split"] == "test"), None):
        said.append(f"Loss on the targets: {loss['before']['value']:.3f} nats a token before training, "
                    f"{loss['after']['value']:.3f} after.")
    return " ".join(said + without_overlap(evaluation, "sources"))


def _is_plain(entry: dict, metric: str) -> bool:
    """Whether this is the copied source and clearly beaten, which nobody need be told in the first lines."""
    difference = entry["differences"][metric]
    return entry["name"] == COPY and difference["value"] > 0 and difference["p_value"] < 0.05


def comparison(evaluation: dict) -> Section:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    notes = (f"Copy: {COPY}. Nearest: {NEAREST}. Before: {UNTUNED}. Exact match: the same but for white space. BLEU "
             "(words) and chrF (letters) are of all outputs together, 0 to 100, by sacrebleu: those runs that stand in "
             "the reference too. BLEU looks at four words in a row, so it says little where targets are short. ROUGE: "
             "words (1), pairs of words (2), and the longest run of words in order (L) in common with the reference. "
             "Token accuracy: tokens of the references foretold right where those before them are given, which is "
             "easier than to write. Came to an end: with the end token, within the budget of tokens. Length ratio: "
             "words of all outputs over words of all references. \N{DOWNWARDS ARROW} lower is better.")
    return Section("results", "Outputs and baselines", [
        *comparison_tables(evaluation, list(COMPARED), _name, _COLUMNS, "pairs"), Text(notes, small=True),
        *facts("Signatures, for comparison with other work",
               [(_name(name), text) for name, text in evaluation["signatures"].items()])])


def losses(evaluation: dict) -> Section:
    """What is learnt, before and after."""
    rows = [(f"{SPLITS[row['split']].capitalize()}, targets", row) for row in evaluation["losses"]]
    note = "A target's end is learnt like its words. Of each reference token the ones before it are given."
    if evaluation.get("warm_start"):
        note += (" Before training the layers between encoder and decoder are new, so the decoder hardly sees the "
                 "source, or not at all.")
    return Section("losses", "Loss before and after", [loss_table(rows), Text(note, small=True)])


def samples(evaluation: dict) -> Section:
    """Some test pairs, one under the other, which a narrow screen can show."""
    blocks: list = [Text("Test pairs, not chosen by how they came out.")]
    for number, entry in enumerate(evaluation["samples"], start=1):
        pairs = [("Source", entry["source"]), ("Reference", entry["reference"]), ("Before", entry["untuned"]),
                 ("After", entry["output"]), ("Nearest", entry["nearest"])]
        blocks += facts(f"Sample {number}", [(name, shorten(text)) for name, text in pairs])
    return Section("samples", "Samples before and after", blocks)


def attention(maps: list[dict], family: str) -> list[Section]:
    """Where the decoder looks in the source, for the examples that the run kept."""
    figures = []
    rest = ("A row sums to one." if family == "encoder-decoder"
            else "What a row has left goes to the separator and to the target so far.")
    for number, found in enumerate(maps[:MAPS], start=1):
        keys, queries = found["source_tokens"][:MOST_TOKENS], found["target_tokens"][:MOST_TOKENS]
        weights = [row[:MOST_TOKENS] for row in found["weights"][:MOST_TOKENS]]
        cut = len(keys) < len(found["source_tokens"]) or len(queries) < len(found["target_tokens"])
        figures.append(Figure(
            plots.attention_picture(weights, queries, keys), f"Example {number}",
            f"A map of {len(queries)} target tokens over {len(keys)} source tokens; darker is more attention.",
            "Each row is a target token, and the darker a cell, the more of the source token below it is read there. "
            f"{rest}" + (f" The first {MOST_TOKENS} tokens of each side are shown." if cut else ""),
            wide=len(keys) > 24))
    note = ("What is read is not yet what decides: a map hints at how source and target are aligned, and proves "
            "nothing. \N{OPEN BOX} is a space.")
    blocks = [*figures, Text(note, small=True)]
    return [Section("attention", "Where it looks in the source", blocks)] if figures else []


def limits(evaluation: dict, trained: dict, recipe: dict) -> Section:
    """What the figures do not say, and what a model of this size cannot do."""
    parameters, n = trained.get("parameters"), evaluation["headline"]["n"]
    seed = (recipe.get("train") or {}).get("seed")
    blocks = [Text("The held-out sources are of the kind that it was trained on. The figures say how well it learnt "
                   "those, not how it does on other text.")]
    if parameters is not None and parameters < SMALL:
        blocks.append(Text(
            f"A model of {parameters / 1e6:.1f} million parameters learns rules that its pairs show over and over, "
            "such as how numbers are said. It is no translator and no summariser: it knows few words and no facts. "
            "Where it does not know, it writes what is likely, in the same tone as what is right."))
    blocks += [
        Text("Each output is held against one reference. A right one in other words scores low; one that is wrong in a "
             "single digit or name scores high in all but exact match. No figure here measures truth."),
        Text(f"All figures are of one training{'' if seed is None else f' (seed {seed})'}. The intervals say how far "
             "they would move on other test pairs, not with another seed or another split.")]
    if n < FEW:
        blocks.append(Text(f"With {n:,} test pairs the headline's interval is wide."))
    return Section("limits", "What it cannot do", blocks)


def data_card(card: dict) -> Section:
    """Where the pairs come from, how they are divided, and what was cut or left out.

    Beside an origin's keys: records, columns, dropped ({reason: count}), dropped_rows ({reason: rows}),
    different_sources, protocol, seed, tokens ({"source" and "target": {"median", "p95", "max"}, "max_length"}),
    cut_rows, left_out_rows, splits ({name: {key: number}}), overlap, example, notes; what is not there is not shown.
    """
    tokens, dropped_rows = card.get("tokens") or {}, card.get("dropped_rows") or {}
    pairs = [*origin(card), ("Columns", " \N{RIGHTWARDS ARROW} ".join(card.get("columns") or [])),
             ("Pairs", card.get("records")),
             *((f"Left out, {reason}", row_list(count, dropped_rows.get(reason), "rows"))
               for reason, count in (card.get("dropped") or {}).items()),
             ("Different sources", card.get("different_sources")), ("Protocol", card.get("protocol")),
             ("Split seed", None if card.get("protocol") == "ordered" else card.get("seed")),
             *((f"Tokens of a {side}", f"median {own['median']}, 95 % have at most {own['p95']}, longest {own['max']}")
               for side in ("source", "target") if (own := tokens.get(side))),
             ("Cut at", f"{value_text(tokens['max_length'])} tokens" if "max_length" in tokens else None),
             *((what, None if rows is None else row_list(len(rows), rows, "rows"))
               for what, rows in (("Sources cut", card.get("cut_rows")),
                                  ("Left out, too long", card.get("left_out_rows"))))]
    blocks = facts("Source and checks", pairs)
    if splits := card.get("splits"):
        keys = list(dict.fromkeys(key for part in splits.values() for key in part))
        blocks.append(Table("Size of each split", ["", *(key.replace("_", " ").capitalize() for key in keys)],
                            [[SPLITS[name], *(value_text(part.get(key)) for key in keys)]
                             for name, part in splits.items()],
                            frozenset(range(1, 1 + len(keys)))))
    blocks += overlap_table(card.get("overlap") or {}, "source")
    if card.get("example"):
        blocks += [Text("A training pair as the model reads it."), Code(shorten(card["example"]))]
    blocks += [Text(sentence(note)) for note in card.get("notes") or []]
    return Section("data", "Data", blocks or [Text("The run has no data card.")])


def use(name: str, evaluation: dict) -> Section:
    """How to have a target written, here and elsewhere."""
    run, samples = f"runs/{name}", evaluation["samples"]
    source = samples[0]["source"] if samples else "a source"
    command = f"finetune generate {shlex.quote(run)} {shlex.quote(shorten(source))}"
    blocks = [Text("On the command line:"), Code(command), Text("From Python:"),
              Code(f"import finetune, torch\n\nmodel, tokenizer = finetune.load({run!r})\nend = tokenizer.end_of_text\n"
                   + ("source = torch.tensor([tokenizer.encode('...')])\n"
                      "ids = model.generate(source, torch.tensor([[end]]), 64, end=end, temperature=0.0)"
                      if evaluation["family"] == "encoder-decoder" else
                      "source = torch.tensor([[*tokenizer.encode('...'), end]])\n"
                      "ids = model.generate(source, 64, end=end, temperature=0.0)[:, source.shape[1]:]")
                   + "\nprint(tokenizer.decode(ids[0].tolist()))")]
    return Section("use", "How to use it", blocks)


def _name(metric: str) -> str:
    return _NAMES.get(metric, metric_name(metric))


def targets_table(evaluation: dict) -> list[str]:
    """A model's outputs and those of its baselines."""
    names = {"exact_match": "exact match", "bleu": "BLEU", "chrf": "chrF", "log_loss": "loss"}
    headline = evaluation["headline"]
    name = names.get(headline["metric"], headline["metric"])
    return [f"test pairs: {headline['n']:,}; 95 % intervals in brackets; p is that of {name}",
            *beside_baselines(evaluation, names)]

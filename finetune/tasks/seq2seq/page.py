"""The page of a model that writes targets for sources: its outputs beside other ways to write them, and its limits."""

import shlex

from finetune.errors import shorten
from finetune.report import plots
from finetune.report.blocks import Code, Figure, Section, Text, facts, value_text
from finetune.report.inputs import AttentionMap
from finetune.report.page import Files, Page, fallback_notice, make_page
from finetune.report.provenance import training
from finetune.report.written import (
    Words,
    beside_baselines,
    comparison_tables,
    data_card,
    is_ahead,
    limits,
    losses,
    metric_label,
    no_data_card,
    row_list,
    samples,
    spread_text,
    tiles,
    unbroken,
    verdict_text,
)
from finetune.tasks.seq2seq.pairs import PairsCard
from finetune.tasks.seq2seq.score import COMPARED, COPY, NEAREST, UNTUNED, TargetsEvaluation

MAPS = 3
MOST_TOKENS = 40  # of a side of an attention map
WORDS = Words(
    "pair",
    "source",
    "target",
    {
        UNTUNED: ("before training", "Before"),
        NEAREST: ("the target of the nearest training source", "Nearest"),
        COPY: ("the source copied", "Copy"),
    },
    UNTUNED,
)


def page(files: Files[TargetsEvaluation, PairsCard]) -> dict:
    """The report, in order."""
    evaluation = files.evaluation
    sections = [
        comparison(evaluation),
        losses_section(evaluation),
        samples(evaluation.samples, WORDS, "Test pairs, not chosen by how they came out."),
        *attention(files.attention, evaluation.family),
        limits_section(files),
        training(files.log, files.train),
        card_section(files.card) if files.card else no_data_card(),
    ]
    top = tiles(evaluation, [evaluation.headline.metric, "chrf", "bleu", "exact_match", "log_loss"], WORDS)
    return make_page(
        files,
        "Source to target report",
        unbroken(verdict(evaluation)),
        top,
        sections,
        use=[use(files.name, evaluation)],
        notice=fallback_notice(files),
    )


def verdict(evaluation: TargetsEvaluation) -> str:
    """What the numbers say, no more than they carry."""
    headline = evaluation.headline.metric
    shown = {name: " on held-out sources" if name == headline else "" for name in (headline, "chrf")}
    return verdict_text(
        evaluation, shown, WORDS, lambda baseline, metric: baseline.name == COPY and is_ahead(baseline, metric)
    )


def comparison(evaluation: TargetsEvaluation) -> Section:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    notes = (
        f"Copy: {COPY}. Nearest: {NEAREST}. Before: {UNTUNED}. Exact match: the same but for white space. BLEU "
        "(words) and chrF (letters) are of all outputs together, 0 to 100, by sacrebleu: those runs that stand in "
        "the reference too. BLEU looks at four words in a row, so it says little where targets are short. ROUGE: "
        "words (1), pairs of words (2), and the longest run of words in order (L) in common with the reference. "
        "Token accuracy: tokens of the references that are predicted right where those before them are given "
        "(teacher-forced), which is easier than to write. Came to an end: with the end token, within the budget "
        "of tokens. Length ratio: words of all outputs over words of all references. \N{DOWNWARDS ARROW} lower is "
        "better."
    )
    return Section(
        "results",
        "Outputs and baselines",
        [
            *comparison_tables(evaluation, COMPARED, WORDS),
            Text(notes, small=True),
            *facts(
                "Signatures, for comparison with other work",
                [(metric_label(name), text) for name, text in evaluation.signatures.items()],
            ),
        ],
    )


def losses_section(evaluation: TargetsEvaluation) -> Section:
    """What is learnt, before and after."""
    note = "A target's end is learnt like its words. Of each reference token the ones before it are given."
    if evaluation.warm_start:
        note += (
            " Before training the layers between encoder and decoder are new, so the decoder hardly sees the "
            "source, or not at all."
        )
    return losses(evaluation.losses, {"": "targets"}, note)


def attention(maps: list[AttentionMap], family: str) -> list[Section]:
    """Where the decoder looks in the source, for the examples that the run kept."""
    figures = []
    rest = (
        "A row sums to one."
        if family == "encoder-decoder"
        else "What a row has left goes to the separator and to the target so far."
    )
    for number, found in enumerate(maps[:MAPS], start=1):
        keys, queries = found.source_tokens[:MOST_TOKENS], found.target_tokens[:MOST_TOKENS]
        weights = [row[:MOST_TOKENS] for row in found.weights[:MOST_TOKENS]]
        cut = len(keys) < len(found.source_tokens) or len(queries) < len(found.target_tokens)
        figures.append(
            Figure(
                plots.attention_picture(weights, queries, keys),
                f"Example {number}",
                f"A map of {len(queries)} target tokens over {len(keys)} source tokens; darker is more attention.",
                "Each row is a target token, and the darker a cell, the more of the source token below it is read there. "
                f"{rest}" + (f" The first {MOST_TOKENS} tokens of each side are shown." if cut else ""),
                wide=len(keys) > 24,
            )
        )
    note = (
        "What is read is not yet what decides: a map hints at how source and target are aligned, and proves "
        "nothing. \N{OPEN BOX} is a space."
    )
    blocks = [*figures, Text(note, small=True)]
    return [Section("attention", "Where it looks in the source", blocks)] if figures else []


def limits_section(files: Files[TargetsEvaluation, PairsCard]) -> Section:
    """What the figures do not say, and what a model of this size cannot do."""
    return limits(
        files.evaluation,
        files.train,
        files.recipe.get("train.seed"),
        WORDS,
        learnt="The held-out sources are of the kind that it was trained on. The figures say how well it learnt those, "
        "not how it does on other text.",
        small="learns rules that its pairs show over and over, such as how numbers are said. It is no translator and "
        "no summariser: it knows few words and no facts. Where it does not know, it writes what is likely, in the same "
        "tone as what is right.",
        truth="Each output is held against one reference. A right one in other words scores low; one that is wrong in "
        "a single digit or name scores high in all but exact match. No figure here measures truth.",
    )


def card_section(card: PairsCard) -> Section:
    """Where the pairs come from, how they are divided, and what was cut or left out."""
    tokens = card.tokens
    counts = [
        ("Columns", " \N{RIGHTWARDS ARROW} ".join(card.columns)),
        ("Pairs", card.records),
        *(
            (f"Left out, {reason}", row_list(card.dropped_rows.get(reason, []), "rows", count))
            for reason, count in card.dropped.items()
        ),
        ("Different sources", card.different_sources),
    ]
    lengths = [
        ("Tokens of a source", spread_text(tokens.source)),
        ("Tokens of a target", spread_text(tokens.target)),
        ("Cut at", f"{value_text(tokens.max_length)} tokens"),
        ("Sources cut", row_list(card.cut_rows, "rows")),
        ("Left out, too long", row_list(card.left_out_rows, "rows")),
    ]
    return data_card(card, counts, lengths, "A training pair as the model reads it.", WORDS)


def use(name: str, evaluation: TargetsEvaluation) -> Section:
    """How to have a target written, here and elsewhere."""
    run, source = f"runs/{name}", shorten(evaluation.samples[0].source, 200)
    command = f"finetune generate {shlex.quote(run)} {shlex.quote(source)}"
    blocks = [
        Text("On the command line:"),
        Code(command),
        Text("From Python:"),
        Code(
            f"import finetune, torch\n\nmodel, tokenizer = finetune.load({run!r})\nend = tokenizer.end_of_text\n"
            + (
                "source = torch.tensor([tokenizer.encode('...')])\n"
                "ids = model.generate(source, torch.tensor([[end]]), 64, end=end, temperature=0.0)"
                if evaluation.family == "encoder-decoder"
                else "source = torch.tensor([[*tokenizer.encode('...'), end]])\n"
                "ids = model.generate(source, 64, end=end, temperature=0.0)[:, source.shape[1]:]"
            )
            + "\nprint(tokenizer.decode(ids[0].tolist()))"
        ),
    ]
    return Section("use", "How to use it", blocks)


def targets_table(evaluation: TargetsEvaluation) -> list[str]:
    """A model's outputs and those of its baselines."""
    names = {"exact_match": "exact match", "bleu": "BLEU", "chrf": "chrF", "log_loss": "loss"}
    headline = evaluation.headline
    return [
        f"test pairs: {headline.n:,}; 95 % intervals in brackets; p is that of "
        f"{names.get(headline.metric, headline.metric)}",
        *beside_baselines(evaluation, names),
    ]


PAGE = Page(TargetsEvaluation, PairsCard, page)

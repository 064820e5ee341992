"""The report page of a seq2seq model: its outputs, the baselines, and its limits."""

import shlex

from finetune.errors import shorten
from finetune.report import plots
from finetune.report.blocks import Code, Figure, PageContent, Section, Text, facts, value_text
from finetune.report.inputs import AttentionMap
from finetune.report.page import Files, Page, fallback_notice, look_closer, make_page
from finetune.report.provenance import training
from finetune.report.slices import slices_section
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
MOST_TOKENS = 40  # on one side of an attention map
WORDS = Words(
    "pair",
    "source",
    "target",
    {
        UNTUNED: ("before training", "Before training"),
        NEAREST: ("nearest-neighbour baseline", "Nearest neighbour"),
        COPY: ("copying the source", "Copy"),
    },
    UNTUNED,
)


def page(files: Files[TargetsEvaluation, PairsCard]) -> PageContent:
    """The report, in order."""
    evaluation = files.evaluation
    sections = [
        comparison(evaluation),
        losses_section(evaluation),
        *([slices_section(evaluation.slices)] if evaluation.slices else []),
        samples(
            evaluation.samples,
            WORDS,
            "Test pairs at regular intervals of the file, not hand-picked; targets.csv in the run's directory has them all.",
        ),
        *attention(files.attention, evaluation.family),
        limits_section(files),
        training(files.log, files.train),
        card_section(files.card) if files.card else no_data_card(),
    ]
    top = tiles(evaluation, [evaluation.headline.metric, "chrf", "bleu", "exact_match", "log_loss"], WORDS)
    return make_page(
        files,
        "Sequence-to-sequence report",
        unbroken(verdict(evaluation)),
        top,
        sections,
        use=[use(files.name, evaluation), look_closer(files, inside=False)],
        notice=fallback_notice(files),
    )


def verdict(evaluation: TargetsEvaluation) -> str:
    """The verdict: a few sentences that claim no more than the numbers support."""
    headline = evaluation.headline.metric
    shown = {name: " on held-out sources" if name == headline else "" for name in (headline, "chrf")}
    return verdict_text(
        evaluation, shown, WORDS, lambda baseline, metric: baseline.name == COPY and is_ahead(baseline, metric)
    )


def comparison(evaluation: TargetsEvaluation) -> Section:
    """All metrics of the model and its baselines on the same rows, and the paired tests."""
    notes = (
        f"Copy: {COPY}. Before training: {UNTUNED}. Nearest neighbour: {NEAREST}. Exact match ignores whitespace. BLEU "
        "(words) and chrF (characters) are corpus-level scores from 0 to 100, computed by sacreBLEU from the n-grams "
        "shared with the reference. BLEU uses n-grams of up to four words, so it is uninformative for short targets. "
        "ROUGE-1: shared words; ROUGE-2: shared word pairs; ROUGE-L: longest common subsequence of words. Token accuracy: "
        "the share of reference tokens predicted correctly given the true preceding tokens (teacher forcing), which is "
        "easier than generating. Stopped with the end token: within the token limit. Length ratio: words in all outputs "
        "divided by words in all references. \N{DOWNWARDS ARROW}: lower is better."
    )
    return Section(
        "results",
        "Outputs and baselines",
        [
            *comparison_tables(evaluation, COMPARED, WORDS),
            Text(notes, small=True),
            *facts(
                "sacreBLEU signatures", [(metric_label(name), text) for name, text in evaluation.signatures.items()]
            ),
        ],
    )


def losses_section(evaluation: TargetsEvaluation) -> Section:
    """The loss before and after training."""
    note = "The end token counts like any other token. Each reference token is predicted from the true preceding ones."
    if evaluation.warm_start:
        note += " Before training the cross-attention is new, so the output hardly depends on the source."
    return losses(evaluation.losses, {"": "targets"}, note)


def attention(maps: list[AttentionMap], family: str) -> list[Section]:
    """The decoder's attention to the source, for the examples that the run saved."""
    figures = []
    rest = (
        "Each row sums to one."
        if family == "encoder-decoder"
        else "The rest of each row's attention goes to the separator and to the target so far."
    )
    for number, found in enumerate(maps[:MAPS], start=1):
        keys, queries = found.source_tokens[:MOST_TOKENS], found.target_tokens[:MOST_TOKENS]
        weights = [row[:MOST_TOKENS] for row in found.weights[:MOST_TOKENS]]
        cut = len(keys) < len(found.source_tokens) or len(queries) < len(found.target_tokens)
        figures.append(
            Figure(
                plots.attention_picture(weights, queries, keys),
                f"Example {number}",
                f"Attention of {len(queries)} target tokens (rows) to {len(keys)} source tokens (columns); darker means more.",
                "Each row is the target token that is predicted, each column a source token. The darker a cell, the more "
                "attention is paid to that source token. "
                f"{rest}" + (f" The first {MOST_TOKENS} tokens of each side are shown." if cut else ""),
                wide=len(keys) > 24,
                quotes=True,
            )
        )
    note = (
        "Weights are means over all layers and heads, read while the model predicts the reference target. They suggest how "
        "source and target are aligned, but do not prove what the model relies on. Shades follow the square root of a weight. "
        "\N{OPEN BOX} is a space."
    )
    blocks = [*figures, Text(note, small=True)]
    return [Section("attention", "Attention to the source", blocks)] if figures else []


def limits_section(files: Files[TargetsEvaluation, PairsCard]) -> Section:
    """What the metrics do not measure, and what a model of this size cannot do."""
    return limits(
        files.evaluation,
        files.train,
        files.recipe.get("train.seed"),
        WORDS,
        learnt="The held-out sources are of the same kind as the training data. The metrics show how well the model "
        "learned those, not how well it works on other text.",
        small="learns regular mappings that its training pairs show many times, such as how to spell out numbers. It knows "
        "few words and no facts. Its wrong outputs look as plausible as its correct ones.",
        truth="Each output is compared with a single reference. A correct paraphrase may score low, and an output with one "
        "wrong digit or name may score high on everything but exact match.",
    )


def card_section(card: PairsCard) -> Section:
    """The source of the pairs, their splits, and what was truncated or left out."""
    tokens = card.tokens
    counts = [
        ("Columns", " \N{RIGHTWARDS ARROW} ".join(card.columns)),
        ("Pairs", card.records),
        *(
            (f"Skipped: {reason}", row_list(card.dropped_rows.get(reason, []), "rows", count))
            for reason, count in card.dropped.items()
        ),
        ("Distinct sources", card.different_sources),
    ]
    lengths = [
        ("Tokens per source", spread_text(tokens.source)),
        ("Tokens per target", spread_text(tokens.target)),
        ("Maximum length", f"{value_text(tokens.max_length)} tokens"),
        ("Sources truncated", row_list(card.cut_rows, "rows")),
        ("Skipped: target too long", row_list(card.left_out_rows, "rows")),
    ]
    return data_card(card, counts, lengths, "A training pair as the model reads it.", WORDS)


def use(name: str, evaluation: TargetsEvaluation) -> Section:
    """How to generate a target, here and in Python."""
    run, source = f"runs/{name}", shorten(evaluation.samples[0].source, 200)
    command = f"finetune generate {shlex.quote(run)}"
    blocks = [
        Text("On the command line:"),
        Code(f"{command} {shlex.quote(source)}", quotes=True, instead=f'{command} "a source"'),
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
    """The metrics of the model's outputs and its baselines, as a plain-text table."""
    names = {"exact_match": "exact match", "bleu": "BLEU", "chrf": "chrF", "log_loss": "loss"}
    headline = evaluation.headline
    return [
        f"test pairs: {headline.n:,}; 95 % intervals in brackets; p is for "
        f"{names.get(headline.metric, headline.metric)}",
        *beside_baselines(evaluation, names),
    ]


PAGE = Page(TargetsEvaluation, PairsCard, page)

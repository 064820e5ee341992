"""The page of a seq2seq model: its outputs beside the baselines, and its limits."""

import shlex

from finetune.errors import shorten
from finetune.report import plots
from finetune.report.blocks import Code, Figure, PageContent, Section, Text, facts, value_text
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


def page(files: Files[TargetsEvaluation, PairsCard]) -> PageContent:
    """The report, in order."""
    evaluation = files.evaluation
    sections = [
        comparison(evaluation),
        losses_section(evaluation),
        samples(evaluation.samples, WORDS, "Test pairs, not selected by quality."),
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
    """The verdict: a few sentences that claim no more than the numbers support."""
    headline = evaluation.headline.metric
    shown = {name: " on held-out sources" if name == headline else "" for name in (headline, "chrf")}
    return verdict_text(
        evaluation, shown, WORDS, lambda baseline, metric: baseline.name == COPY and is_ahead(baseline, metric)
    )


def comparison(evaluation: TargetsEvaluation) -> Section:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    notes = (
        f"Copy: {COPY}. Nearest: {NEAREST}. Before: {UNTUNED}. Exact match ignores white space. BLEU "
        "(words) and chrF (characters) are corpus scores from 0 to 100 by sacrebleu: n-grams shared with "
        "the reference. BLEU uses n-grams of up to four words, so it says little for short targets. ROUGE: "
        "words (1), pairs of words (2) and the longest subsequence of words (L) in common with the reference. "
        "Token accuracy: reference tokens predicted correctly when the preceding ones are given "
        "(teacher-forced), which is easier than generating. Came to an end: with the end token, within the limit "
        "of tokens. Length ratio: words in all outputs over words in all references. \N{DOWNWARDS ARROW} lower is "
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
    """The loss before and after training."""
    note = "The end token is learnt like the words. Each reference token is predicted from the true preceding ones."
    if evaluation.warm_start:
        note += (
            " Before training the cross-attention is untrained, so the decoder hardly sees the source, or not at all."
        )
    return losses(evaluation.losses, {"": "targets"}, note)


def attention(maps: list[AttentionMap], family: str) -> list[Section]:
    """Where the decoder looks in the source, for the examples that the run kept."""
    figures = []
    rest = (
        "A row sums to one."
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
                f"A map of {len(queries)} target tokens over {len(keys)} source tokens; darker is more attention.",
                "Each row is a target token; the darker a cell, the more attention it pays to the source token below. "
                f"{rest}" + (f" The first {MOST_TOKENS} tokens of each side are shown." if cut else ""),
                wide=len(keys) > 24,
            )
        )
    note = (
        "Attention is not explanation: a map hints at how source and target are aligned, and proves "
        "nothing. \N{OPEN BOX} is a space."
    )
    blocks = [*figures, Text(note, small=True)]
    return [Section("attention", "Where it looks in the source", blocks)] if figures else []


def limits_section(files: Files[TargetsEvaluation, PairsCard]) -> Section:
    """What the metrics do not measure, and what a model of this size cannot do."""
    return limits(
        files.evaluation,
        files.train,
        files.recipe.get("train.seed"),
        WORDS,
        learnt="The held-out sources are of the same kind as the training data. The metrics show how well it learnt those, "
        "not how well it works on other text.",
        small="learns rules that its pairs repeat, such as how to spell out numbers. It is not a translator or "
        "a summariser: it knows few words and no facts. When it does not know, it writes what is likely, in the same "
        "tone as a correct answer.",
        truth="Each output is compared with a single reference. A correct paraphrase scores low; an output that is wrong in "
        "a single digit or name scores high in everything but exact match. No metric here measures truth.",
    )


def card_section(card: PairsCard) -> Section:
    """The source of the pairs, their splits, and what was truncated or left out."""
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
    """How to generate a target, here and in Python."""
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

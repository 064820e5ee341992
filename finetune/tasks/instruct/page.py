"""The page of a model that answers instructions: its answers beside two other ways to answer, and its limits."""

import shlex

from finetune.report.blocks import Code, Section, Table, Text, value_text
from finetune.report.page import Files, Page, fallback_notice, make_page
from finetune.report.provenance import training
from finetune.report.written import (
    LISTED,
    Words,
    beside_baselines,
    comparison_tables,
    data_card,
    limits,
    losses,
    no_data_card,
    row_list,
    samples,
    spread_text,
    tiles,
    unbroken,
    verdict_text,
)
from finetune.tasks.instruct.records import InstructionsCard
from finetune.tasks.instruct.score import COMPARED, NEAREST, SHORT, UNTUNED, AnswersEvaluation

WORDS = Words(
    "record",
    "question",
    "answer",
    {UNTUNED: ("before training", "Before"), NEAREST: ("the answer to the nearest training question", "Nearest")},
    UNTUNED,
)


def page(files: Files[AnswersEvaluation, InstructionsCard]) -> dict:
    """The report, in order."""
    evaluation, card = files.evaluation, files.card
    note = (
        "Test records at even distances in the file, not chosen by how they came out. All answers are the "
        "likeliest tokens one by one (greedy). answers.csv in the run has every test record."
    )
    sections = [
        comparison(evaluation),
        losses_section(evaluation),
        samples(evaluation.samples, WORDS, note),
        limits_section(files),
        training(files.log, files.train),
        card_section(card) if card else no_data_card(),
    ]
    top = tiles(evaluation, [evaluation.headline.metric, "log_loss", "rouge_l", "well_formed"], WORDS)
    return make_page(
        files,
        "Instruction report",
        unbroken(verdict(evaluation)),
        top,
        sections,
        use=[use(files.name, card.prompt if card else "")],
        notice=fallback_notice(files),
    )


def verdict(evaluation: AnswersEvaluation) -> str:
    """What the numbers say, no more than they carry."""
    where = {"exact_match": f" on held-out questions whose answer has {SHORT} words or fewer"}
    shown = {name: where.get(name, "") for name in (evaluation.headline.metric, "rouge_l")}
    return verdict_text(evaluation, shown, WORDS)


def comparison(evaluation: AnswersEvaluation) -> Section:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    metrics = evaluation.metrics
    notes = (
        f"Before: {UNTUNED}. Nearest: {NEAREST}. Exact match and token F1 are over the "
        f"{metrics['exact_match'].n:,} of {metrics['rouge_l'].n:,} test records whose reference has {SHORT} words "
        "or fewer: a longer answer can be right in other words. Exact match forgives white space alone, SQuAD's "
        "rules case, punctuation and articles too. ROUGE-L: the longest run of words in common, in order, "
        "whatever stands between them. Repetition: the share of an answer's four-word sequences that it had "
        "already. Came to an end: with the end token, within the budget of tokens. Format kept: that, not empty, "
        "and without a line that goes on as a prompt. Length ratio: words of all answers over words of all "
        "references. \N{DOWNWARDS ARROW} lower is better."
    )
    return Section(
        "results", "Answers and baselines", [*comparison_tables(evaluation, COMPARED, WORDS), Text(notes, small=True)]
    )


def losses_section(evaluation: AnswersEvaluation) -> Section:
    """What is learnt, before and after."""
    on = {"answer": "answers", "words": "answers without their ends", "all": "prompts and answers"}
    note = (
        "An answer's end is learnt like its words. Before training a model hardly expects it after a few words, so "
        "where answers are short some of the fall is that it has learnt to stop."
    )
    if any(change.on == "all" for change in evaluation.losses):
        note += (
            " With the prompts, most of the fall is their fixed words, which every record repeats; the loss on "
            "the answers is the one that tells."
        )
    return losses(evaluation.losses, on, note)


def limits_section(files: Files[AnswersEvaluation, InstructionsCard]) -> Section:
    """What the figures do not say, and what a model of this size cannot do."""
    return limits(
        files.evaluation,
        files.train,
        files.recipe.get("train.seed"),
        WORDS,
        learnt="The held-out questions are of the kinds that it was trained on. The figures say how well it learnt "
        "those, not how well it follows instructions.",
        small="learns the form of an answer, its length and where it ends, long before the content. It knows next to "
        "nothing: no facts beyond common words, no arithmetic, no advice; and it copies badly from a question. To an "
        "instruction of another kind it gives something of the right shape and the wrong content. Use it to see that "
        "the training works, and for nothing else.",
        truth="No figure here measures truth. An answer that shares most of its words with the reference can be wrong "
        "by the one that it does not share, and ROUGE-L hardly sees it. Nothing was done to make answers polite or "
        "safe.",
    )


def card_section(card: InstructionsCard) -> Section:
    """Where the records come from, how they are divided and worded, and what was cut or left out."""
    tokens, malformed = card.tokens, card.malformed_records
    counts = [
        ("Records", card.records),
        ("Malformed, left out", card.malformed),
        ("Different questions", card.different_questions),
        ("Prompt style", card.style),
    ]
    lengths = [
        ("Tokens of an example", spread_text(tokens)),
        ("Cut at", f"{value_text(tokens.max_length)} tokens"),
        ("Prompts cut at their beginning", row_list(card.cut_rows, "records")),
        ("Left out, the answer alone is too long", row_list(card.left_out_rows, "records")),
    ]
    example = (
        "A training example as the model reads it. What it learns is "
        f"{'all of it' if card.loss_on == 'all' else 'the answer'} and the end token that follows."
    )
    more = (
        [
            Table(
                f"Malformed records{f', the first {LISTED}' if len(malformed) > LISTED else ''}",
                ["Where", "What is wrong"],
                [list(line.partition(": ")[::2]) for line in malformed[:LISTED]],
                prose=1,
            )
        ]
        if malformed
        else []
    )
    return data_card(card, counts, lengths, example, WORDS, more)


def use(name: str, prompt: str) -> Section:
    """How to ask it, here and elsewhere. prompt: with a question of its own."""
    run = f"runs/{name}"
    return Section(
        "use",
        "How to use it",
        [
            Text("On the command line, in the prompt style that it was trained on:"),
            Code(f"finetune chat {shlex.quote(run)}"),
            Text("With transformers alone, the prompt is yours to write, word for word as in training:"),
            Code(
                "from transformers import pipeline\n\n"
                f'write = pipeline("text-generation", model={run + "/export/hf"!r})\n'
                f"write({prompt!r}, max_new_tokens=64, do_sample=False)"
            ),
        ],
    )


def answers_table(evaluation: AnswersEvaluation) -> list[str]:
    """A model's answers and those of its baselines."""
    names = {"exact_match": "exact match", "rouge_l": "ROUGE-L", "log_loss": "loss"}
    metrics = evaluation.metrics
    return [
        f"test records: {metrics['rouge_l'].n:,}, {metrics['exact_match'].n:,} of them with a short answer "
        "(for exact match); 95 % intervals in brackets",
        *beside_baselines(evaluation, names),
    ]


PAGE = Page(AnswersEvaluation, InstructionsCard, page)

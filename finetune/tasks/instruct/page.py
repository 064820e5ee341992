"""The page of an instruction model: its answers beside two baselines, and its limits."""

import shlex

from finetune.report.blocks import Code, PageContent, Section, Table, Text, value_text
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


def page(files: Files[AnswersEvaluation, InstructionsCard]) -> PageContent:
    """The report, in order."""
    evaluation, card = files.evaluation, files.card
    note = (
        "Test records evenly spaced in the file, not selected by quality. All answers are "
        "decoded greedily. answers.csv in the run has every test record."
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
    """The verdict: a few sentences that claim no more than the numbers support."""
    where = {"exact_match": f" on held-out questions whose answer has {SHORT} words or fewer"}
    shown = {name: where.get(name, "") for name in (evaluation.headline.metric, "rouge_l")}
    return verdict_text(evaluation, shown, WORDS)


def comparison(evaluation: AnswersEvaluation) -> Section:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    metrics = evaluation.metrics
    notes = (
        f"Before: {UNTUNED}. Nearest: {NEAREST}. Exact match and token F1 are over the "
        f"{metrics['exact_match'].n:,} of {metrics['rouge_l'].n:,} test records whose reference has {SHORT} words "
        "or fewer, because a longer answer can be right in other words. Exact match ignores only white space; SQuAD's "
        "rules also ignore case, punctuation and articles. ROUGE-L: the longest common subsequence of words, "
        "not necessarily adjacent. Repetition: the share of an answer's four-word sequences that occurred "
        "before. Came to an end: with the end token, within the token limit. Format kept: ended, not empty, "
        "and no line that starts another prompt. Length ratio: words in all answers over words in all "
        "references. \N{DOWNWARDS ARROW} lower is better."
    )
    return Section(
        "results", "Answers and baselines", [*comparison_tables(evaluation, COMPARED, WORDS), Text(notes, small=True)]
    )


def losses_section(evaluation: AnswersEvaluation) -> Section:
    """The loss before and after training."""
    on = {"answer": "answers", "words": "answers without their ends", "all": "prompts and answers"}
    note = (
        "The end token is learnt like the words. Before training the model hardly expects it after a few words, so "
        "for short answers part of the drop comes from learning to stop."
    )
    if any(change.on == "all" for change in evaluation.losses):
        note += (
            " With prompts included, most of the drop comes from their fixed words, which every record repeats; the loss on "
            "the answers is the one to look at."
        )
    return losses(evaluation.losses, on, note)


def limits_section(files: Files[AnswersEvaluation, InstructionsCard]) -> Section:
    """What the metrics do not measure, and what a model of this size cannot do."""
    return limits(
        files.evaluation,
        files.train,
        files.recipe.get("train.seed"),
        WORDS,
        learnt="The held-out questions are of the same kinds as the training questions. The metrics show how well it learnt "
        "those, not how well it follows instructions.",
        small="learns the form of an answer, its length and its end, long before the content. It knows almost "
        "nothing: no facts, no arithmetic, no advice; and it copies poorly from the question. For an "
        "instruction of another kind it writes an answer of the right form with the wrong content. Use it to check that "
        "the training works, and for nothing else.",
        truth="No metric here measures truth. An answer that shares most of its words with the reference can be wrong "
        "because of the one that differs, and ROUGE-L hardly notices. Nothing was done to make answers polite or "
        "safe.",
    )


def card_section(card: InstructionsCard) -> Section:
    """The source of the records, their splits and prompt style, and what was truncated or left out."""
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
        ("Prompts truncated at the start", row_list(card.cut_rows, "records")),
        ("Left out, the answer alone is too long", row_list(card.left_out_rows, "records")),
    ]
    example = (
        "A training example as the model reads it. The loss covers "
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
    """How to use the model, here and in transformers. prompt: includes an example question."""
    run = f"runs/{name}"
    return Section(
        "use",
        "How to use it",
        [
            Text("On the command line, in the prompt style that it was trained on:"),
            Code(f"finetune chat {shlex.quote(run)}"),
            Text("With transformers, write the prompt yourself, word for word as in training:"),
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

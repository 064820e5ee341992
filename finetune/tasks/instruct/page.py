"""The report page of an instruction model: its answers, two baselines, and its limits."""

import shlex

from finetune.report.blocks import Code, PageContent, Section, Table, Text, value_text
from finetune.report.page import Files, Page, fallback_notice, look_closer, make_page
from finetune.report.provenance import training
from finetune.report.slices import slices_section
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
    {UNTUNED: ("before training", "Before training"), NEAREST: ("nearest-neighbour baseline", "Nearest neighbour")},
    UNTUNED,
)


def page(files: Files[AnswersEvaluation, InstructionsCard]) -> PageContent:
    """The report, in order."""
    evaluation, card = files.evaluation, files.card
    note = (
        "Test records at regular intervals of the file, not hand-picked. All answers are decoded greedily; answers.csv in "
        "the run's directory has those to all test records."
    )
    sections = [
        comparison(evaluation),
        losses_section(evaluation),
        *([slices_section(evaluation.slices)] if evaluation.slices else []),
        samples(evaluation.samples, WORDS, note),
        limits_section(files),
        training(files.log, files.train),
        card_section(card) if card else no_data_card(),
    ]
    top = tiles(evaluation, [evaluation.headline.metric, "log_loss", "rouge_l", "well_formed"], WORDS)
    return make_page(
        files,
        "Instruction-tuning report",
        unbroken(verdict(evaluation)),
        top,
        sections,
        use=[use(files.name, card.prompt if card else ""), look_closer(files)],
        notice=fallback_notice(files),
    )


def verdict(evaluation: AnswersEvaluation) -> str:
    """The verdict: a few sentences that claim no more than the numbers support."""
    where = {"exact_match": f" on held-out questions whose answer has {SHORT} words or fewer"}
    shown = {name: where.get(name, "") for name in (evaluation.headline.metric, "rouge_l")}
    return verdict_text(evaluation, shown, WORDS)


def comparison(evaluation: AnswersEvaluation) -> Section:
    """All metrics of the model and its baselines on the same rows, and the paired tests."""
    metrics = evaluation.metrics
    notes = (
        f"Before training: {UNTUNED}. Nearest neighbour: {NEAREST}. Exact match and word F1 (overlap of words with the "
        f"reference) are measured on the {metrics['exact_match'].n:,} of {metrics['rouge_l'].n:,} test records whose "
        f"reference has {SHORT} words or fewer, because a longer answer can be correct with a different wording. Exact "
        "match ignores only whitespace; SQuAD normalisation also ignores case, punctuation and articles. ROUGE-L: an "
        "F-measure based on the longest common subsequence of words. Repetition: the share of four-word sequences that "
        "occur earlier in the same answer. Stopped with the end token: within the token limit. Correct format: stopped "
        "with the end token, is not empty and contains no new prompt. Length ratio: words in all answers divided by words "
        "in all references; a few very long answers can dominate it. \N{DOWNWARDS ARROW}: lower is better."
    )
    return Section(
        "results", "Answers and baselines", [*comparison_tables(evaluation, COMPARED, WORDS), Text(notes, small=True)]
    )


def losses_section(evaluation: AnswersEvaluation) -> Section:
    """The loss before and after training."""
    on = {"answer": "answers", "words": "answers without end tokens", "all": "prompts and answers"}
    note = (
        "Unless a row leaves them out, end tokens count like any other token. Before training the model hardly expects one "
        "after a few words, so for short answers part of the drop comes from learning to stop."
    )
    if any(change.on == "all" for change in evaluation.losses):
        note += (
            " With prompts included, most of the drop comes from the fixed words that all prompts share, so look at the "
            "loss on the answers."
        )
    return losses(evaluation.losses, on, note)


def limits_section(files: Files[AnswersEvaluation, InstructionsCard]) -> Section:
    """What the metrics do not measure, and what a model of this size cannot do."""
    return limits(
        files.evaluation,
        files.train,
        files.recipe.get("train.seed"),
        WORDS,
        learnt="The held-out questions are of the same kinds as the training questions. The metrics show how well the model "
        "learned those, not how well it follows instructions in general.",
        small="learns the form of an answer, such as its length, long before the content. It has practically no factual "
        "knowledge, cannot do arithmetic, and often fails to copy words from the question. To an instruction of another "
        "kind it gives an answer of the right form with the wrong content. Use it only to check that the training works.",
        truth="None of these metrics measures factual correctness. An answer can differ from the reference in a single "
        "word and still be wrong; ROUGE-L hardly notices. Nothing was done to make answers polite or safe.",
    )


def card_section(card: InstructionsCard) -> Section:
    """The source of the records, their splits and prompt style, and what was truncated or left out."""
    tokens, malformed = card.tokens, card.malformed_records
    counts = [
        ("Records", card.records),
        ("Skipped: malformed", card.malformed),
        ("Distinct questions", card.different_questions),
        ("Prompt style", card.style),
    ]
    lengths = [
        ("Tokens per example", spread_text(tokens)),
        ("Maximum length", f"{value_text(tokens.max_length)} tokens"),
        ("Prompts truncated at the start", row_list(card.cut_rows, "records")),
        ("Skipped: the answer alone is too long", row_list(card.left_out_rows, "records")),
    ]
    example = (
        "A training example as the model reads it. The loss covers "
        f"{'all of it' if card.loss_on == 'all' else 'the answer'} and the end token that follows."
    )
    more = (
        [
            Table(
                f"Malformed records{f', the first {LISTED}' if len(malformed) > LISTED else ''}",
                ["Where", "Problem"],
                [list(line.partition(": ")[::2]) for line in malformed[:LISTED]],
                prose=frozenset({1}),
                quotes=frozenset({1}),
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
            Text("On the command line, with the prompt style used in training:"),
            Code(f"finetune chat {shlex.quote(run)}"),
            Text("With transformers, build the prompt exactly as in training:"),
            Code(
                "from transformers import pipeline\n\n"
                f'generator = pipeline("text-generation", model={run + "/export/hf"!r})\n'
                f"generator({prompt!r}, max_new_tokens=64, do_sample=False)"
            ),
        ],
    )


def answers_table(evaluation: AnswersEvaluation) -> list[str]:
    """The metrics of the model's answers and its baselines, as a plain-text table."""
    names = {"exact_match": "exact match", "rouge_l": "ROUGE-L", "log_loss": "loss"}
    metrics = evaluation.metrics
    return [
        f"test records: {metrics['rouge_l'].n:,}, {metrics['exact_match'].n:,} of them with a short answer "
        "(for exact match); 95 % intervals in brackets",
        *beside_baselines(evaluation, names),
    ]


PAGE = Page(AnswersEvaluation, InstructionsCard, page)

"""Split, tokenize and count instruction records."""

from finetune.errors import counted
from finetune.evaluation.leakage import overlap
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.tables.card import token_spread
from finetune.tables.splits import SPLITS, fold_text
from finetune.tasks.instruct.examples import Examples, last_answers, make_examples, prompt_room, tokenize
from finetune.tasks.instruct.prompts import pieces, prompt, question
from finetune.tasks.instruct.records import ExampleTokens, Instruction, Instructions, InstructionsCard, InstructRecord
from finetune.tasks.writing import count_different, divide, overlap_notes, split_sizes, tokenize_splits
from finetune.tokenizer import Tokenizer

Records = dict[str, list[InstructRecord]]  # of each split


def divide_records(
    recipe: Recipe, source: Instructions, tokenizer: Tokenizer, max_length: int
) -> tuple[Records, dict[str, Examples]]:
    """Split and tokenize the records. Except in file order, records with the same question stay in one split."""
    questions = [question(record) for record in source.records]
    parts = divide(questions, recipe.split, recipe.split.val_fraction, recipe.split.test_fraction)
    records = {name: [source.records[i] for i in parts[name]] for name in SPLITS}

    def tokenized(part: list[InstructRecord]) -> Examples:
        tokens = tokenize(part, tokenizer, recipe.instruct)
        return make_examples(part, tokens, max_length, recipe.instruct.loss_on)

    return records, tokenize_splits(
        records, tokenized, max_length, "record", f"{count_different(questions)} different questions"
    )


def prepare(
    recipe: Recipe, source: Instructions, tokenizer: Tokenizer, context: int, origin: DataOrigin
) -> tuple[Records, dict[str, Examples], InstructionsCard]:
    """The records of each split, their tokens and the data card. context: maximum input tokens of the model."""
    settings = recipe.instruct
    max_length = min(recipe.max_length or context, context)
    records, found = divide_records(recipe, source, tokenizer, max_length)
    lengths = [length + 1 for part in found.values() for length in part.lengths()]
    cut, left_out = (
        sorted(row for part in found.values() for row in getattr(part, name)) for name in ("cut", "left_out")
    )
    both = overlap({name: [question(record) for record in part] for name, part in records.items()}, fold_text)
    notes = []
    if source.malformed:
        notes.append(f"{counted(len(source.malformed), 'malformed record')} left out")
    if cut:
        notes.append(f"{counted(len(cut), 'prompt')} truncated at the start to fit into {max_length} tokens")
    if left_out:
        notes.append(
            f"{counted(len(left_out), 'record')} left out: the answer alone is longer than {max_length} tokens"
        )
    room, longest, test = prompt_room(context, settings), settings.max_new_tokens, found["test"].tokens
    answers = last_answers(test)
    if shortened := int((test.text.lengths() - answers > room).sum()):
        notes.append(
            f"{counted(shortened, 'test prompt')} truncated at the start for generation, to leave room for "
            f"{longest} answer tokens in a context of {context}"
        )
    if long := int((answers - 1 > longest).sum()):
        notes.append(
            f"{counted(long, 'test answer is', 'test answers are')} longer than the {longest} tokens that are generated; "
            "to change that, set instruct.max_new_tokens"
        )
    if recipe.split.protocol == "ordered":
        notes.append("records are split in file order: train, then test, then validation")
    card = InstructionsCard(
        **vars(origin),
        records=len(source.records),
        malformed=len(source.malformed),
        malformed_records=source.malformed,
        style="template" if settings.template else settings.style,
        template=settings.template,
        loss_on=settings.loss_on,
        example="".join(piece.text for piece in pieces(records["train"][0], settings)),
        prompt="".join(piece.text for piece in prompt(Instruction(0, "What is asked?", "", ""), settings)),
        protocol=recipe.split.protocol,
        seed=recipe.split.seed,
        different_questions=count_different([question(record) for record in source.records]),
        splits=split_sizes(records, found),
        tokens=ExampleTokens(
            **vars(token_spread(lengths)),
            total=sum(lengths),
            max_length=max_length,
            cut=len(cut),
            left_out=len(left_out),
        ),
        cut_rows=cut,
        left_out_rows=left_out,
        overlap=both,
        notes=notes + overlap_notes(both, "question"),
    )
    return records, found, card

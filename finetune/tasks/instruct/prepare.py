"""Instruction records divided into splits, tokenized and counted."""

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
    """Split and tokenize the records, those with the same question together if not by their order alone."""
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
    """The records of each split, their tokens and the data card. context: tokens that the model reads at once."""
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
        notes.append(f"{len(source.malformed)} malformed records left out")
    if cut:
        notes.append(f"{len(cut)} prompts lost their beginning, to fit into {max_length} tokens")
    if left_out:
        notes.append(f"{len(left_out)} records left out: the answer alone is longer than {max_length} tokens")
    room, longest, test = prompt_room(context, settings), settings.max_new_tokens, found["test"].tokens
    answers = last_answers(test)
    if shortened := int((test.text.lengths() - answers > room).sum()):
        notes.append(
            f"{shortened} test prompts are read without their beginning where answers are written, so that "
            f"{longest} tokens of an answer fit into {context}"
        )
    if long := int((answers - 1 > longest).sum()):
        notes.append(
            f"{long} test answers are longer than the {longest} tokens that are written; "
            "instruct.max_new_tokens sets those"
        )
    if recipe.split.protocol == "ordered":
        notes.append(
            "records stand on a side by their place in the file: those to train on, the test's, the validation's"
        )
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

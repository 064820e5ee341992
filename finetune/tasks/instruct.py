"""The task ``instruct``: answer an instruction. Prompts are read, answers and their ends are learnt."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from finetune.console import progress
from finetune.errors import DataError
from finetune.evaluation.answers import NEAREST, UNTUNED, References, Written, score_answers
from finetune.evaluation.baseline import nearest_answers
from finetune.evaluation.language import loss_metrics
from finetune.evaluation.leakage import clean_rows, overlap
from finetune.models.gpt import GPT, IGNORE
from finetune.models.heads import NextToken
from finetune.recipe import Instruct, Recipe, Train
from finetune.tables.instructions import Instructions
from finetune.tables.prompts import Piece, answer, markers, pieces, prompt, question
from finetune.tables.splits import SPLITS, fold_text, grouped_split, ordered_split, text_keys
from finetune.tasks.answering import Answer, write_answers
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.collate import pad_ids
from finetune.training.loop import Job


@dataclass(frozen=True)
class Examples:
    """Tokenized records of one split, each row with the token that should follow at every position."""

    rows: list[int]  # row numbers in the source file
    inputs: list[list[int]]
    targets: list[list[int]]  # IGNORE where nothing is learnt
    cut: list[int]  # rows whose prompt lost its beginning
    left_out: list[int]  # rows whose answer leaves no room for a prompt

    def take(self, positions: list[int]) -> "Examples":
        """Some of the rows."""
        return Examples(*([own[i] for i in positions] for own in (self.rows, self.inputs, self.targets)), [], [])

    def without(self, token: int) -> "Examples":
        """The same with nothing to learn where this token should follow."""
        targets = [[IGNORE if target == token else target for target in row] for row in self.targets]
        return replace(self, targets=targets)

    def learnt(self) -> list[int]:
        """Supervised tokens of each row."""
        return [sum(target != IGNORE for target in targets) for targets in self.targets]


def prepare(recipe: Recipe, source: Instructions, tokenizer: Tokenizer, context: int) -> tuple[dict, dict]:
    """Split the records, those with the same question together if not by their order alone.

    Questions count as the same if they are after folding case and white space: digits are content here.
    Returns (records by split, data card).
    """
    split, settings = recipe.split, recipe.instruct
    questions = [question(record) for record in source.records]
    if split.protocol == "ordered":
        parts = ordered_split(len(questions), split.val_fraction, split.test_fraction)
    else:
        parts = grouped_split(questions, [""] * len(questions), split.val_fraction, split.test_fraction, split.seed,
                              keys=text_keys(questions, fold_text))
    empty = [name for name in SPLITS if not parts[name]]
    if empty:
        raise DataError(f"too few records: none for the {empty[0]} split",
                        got=f"{len(set(map(fold_text, questions)))} different questions", do="Add some.")
    records = {name: [source.records[i] for i in parts[name]] for name in SPLITS}
    max_length = min(recipe.max_length or context, context)
    found = {name: examples(part, tokenizer, settings, max_length) for name, part in records.items()}
    for name, part in found.items():
        if not part.rows:
            raise DataError(f"no record of the {name} split fits into {max_length} tokens",
                            do="Give a larger max_length, or a model with a longer context.")
    lengths = [len(row) + 1 for part in found.values() for row in part.inputs]
    cut, left_out = ([row for part in found.values() for row in getattr(part, name)] for name in ("cut", "left_out"))
    notes = []
    if source.malformed:
        notes.append(f"{len(source.malformed)} malformed records left out")
    if cut:
        notes.append(f"{len(cut)} prompts lost their beginning, to fit into {max_length} tokens")
    if left_out:
        notes.append(f"{len(left_out)} records left out: the answer alone is longer than {max_length} tokens")
    room, longest = prompt_room(context, settings), settings.max_new_tokens
    if shortened := sum(len(conversation_ids(record, tokenizer, settings)) > room for record in records["test"]):
        notes.append(f"{shortened} test prompts are read without their beginning where answers are written, so that "
                     f"{longest} tokens of an answer fit into {context}")
    if long := sum(len(tokenizer.encode(answer(record))) > longest for record in records["test"]):
        notes.append(f"{long} test answers are longer than the {longest} tokens that are written; "
                     "instruct.max_new_tokens sets those")
    both = overlap({name: [questions[i] for i in part] for name, part in parts.items()}, fold_text)
    if split.protocol == "ordered":
        notes.append("records stand on a side by their place in the file: those to train on, the test's, the "
                     "validation's")
    for name, counts in both.items():
        side, other = name.split("_in_")
        if counts["normalised"]:
            notes.append(f"{counts['normalised']} of {counts['n']} {side} questions stand in {other} too, after "
                         "normalising")
    card = {
        "records": len(source.records), "malformed": len(source.malformed), "malformed_records": source.malformed,
        "style": "template" if settings.template else settings.style, "template": settings.template,
        "loss_on": settings.loss_on,
        "example": "".join(piece.text for piece in pieces(records["train"][0], settings)),
        "prompt": "".join(piece.text for piece in prompt({"instruction": "What is asked?", "input": ""}, settings)),
        "protocol": split.protocol, "seed": split.seed, "different_questions": len(set(map(fold_text, questions))),
        "splits": {name: {"records": len(records[name]), "used": len(part.rows), "tokens": sum(map(len, part.inputs)),
                          "learnt_tokens": sum(part.learnt())} for name, part in found.items()},
        "tokens": {"median": int(np.median(lengths)), "p95": int(np.percentile(lengths, 95)), "max": max(lengths),
                   "total": sum(lengths), "max_length": max_length, "cut": len(cut), "left_out": len(left_out)},
        "cut_rows": sorted(cut), "left_out_rows": sorted(left_out), "overlap": both, "notes": notes}
    return records, card


def examples(records: list[dict], tokenizer: Tokenizer, settings: Instruct, max_length: int) -> Examples:
    """Tokenize one split's records into at most `max_length` inputs; see ``Examples`` for what does not fit."""
    found = Examples([], [], [], [], [])
    for record in records:
        fitted = _fit(_encode(pieces(record, settings), tokenizer), max_length + 1)
        if fitted is None:
            found.left_out.append(record["row"])
            continue
        ids, learnt, over = fitted
        if over:
            found.cut.append(record["row"])
        found.rows.append(record["row"])
        found.inputs.append(ids[:-1])
        found.targets.append([token if own or settings.loss_on == "all" else IGNORE
                              for token, own in zip(ids[1:], learnt[1:], strict=True)])
    return found


def prompt_ids(record: dict, tokenizer: Tokenizer, settings: Instruct, context: int) -> list[int]:
    """What a model reads before it answers, cut from the left so that the answer has its room in the context."""
    return conversation_ids(record, tokenizer, settings)[-prompt_room(context, settings):]


def prompt_room(context: int, settings: Instruct) -> int:
    """Tokens of a prompt that leave room for an answer: half of the context at least; a longer answer then slides."""
    return max(context - settings.max_new_tokens, context // 2)


def conversation_ids(record: dict, tokenizer: Tokenizer, settings: Instruct) -> list[int]:
    """Everything before a record's last answer, the answers before it with their ends."""
    return [token for own, _ in _encode(prompt(record, settings), tokenizer) for token in own]


def _encode(parts: Iterable[Piece], tokenizer: Tokenizer) -> list[tuple[list[int], bool]]:
    """(ids, whether they are an answer) of each piece; an answer is closed by the end-of-text token.

    Every piece is tokenized by itself, so no token stands with one byte in the prompt and one in the answer.
    """
    return [(tokenizer.encode(piece.text) + [tokenizer.end_of_text] * piece.answer, piece.answer) for piece in parts]


def _fit(parts: list[tuple[list[int], bool]], room: int) -> tuple[list[int], list[bool], int] | None:
    """The last `room` tokens: (ids, whether each is of a whole answer, tokens cut off).

    None where the last answer leaves no token of its prompt.
    """
    if len(parts[-1][0]) >= room:
        return None
    over = max(sum(len(own) for own, _ in parts) - room, 0)
    ids: list[int] = []
    learnt: list[bool] = []
    for own, is_answer in parts:
        learnt += [is_answer and len(ids) > over] * len(own)  # an earlier answer that is cut is only read
        ids += own
    return ids[over:], learnt[over:], over


def build_job(model: NextToken, settings: Train, train: Examples, val: Examples, device: torch.device) -> Job:
    """Everything the loop needs; a row weighs as many tokens as it has to learn."""
    def batch(rows: list[int]):
        return collate(train, rows)

    def loss_sum(module: nn.Module, tensors):
        return module(*tensors)

    def validate(module: nn.Module) -> dict[str, float]:
        return measure(module, val, settings.micro_batch_tokens, device)

    return Job(model, [len(row) for row in train.inputs], [float(count) for count in train.learnt()], batch, loss_sum,
               validate, name_row=lambda i: str(train.rows[i]), validation_tokens=sum(map(len, val.inputs)))


def collate(part: Examples, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T), padded on the right; a pad is never a target and, to the right, never seen."""
    return pad_ids([part.inputs[i] for i in rows])[0], pad_ids([part.targets[i] for i in rows], IGNORE)[0]


def measure(model: nn.Module, part: Examples, budget: int, device: torch.device) -> dict[str, float]:
    """Loss per supervised token in nats, and perplexity."""
    groups = micro_batches(list(range(len(part.rows))), [len(row) for row in part.inputs], budget)
    loss = float(answer_nats(model, part, groups, device).sum()) / sum(part.learnt())
    return {"log_loss": loss, "perplexity": math.exp(min(loss, 50.0))}


@torch.no_grad()
def answer_nats(model: nn.Module, part: Examples, groups: list[list[int]], device: torch.device) -> np.ndarray:
    """The cross entropy of groups of rows in nats, each summed over its supervised tokens (one forward pass)."""
    return np.array([float(model(*(tensor.to(device) for tensor in collate(part, rows)))) for rows in groups])


def generate_answers(gpt: GPT, prompts: list[list[int]], tokenizer: Tokenizer, max_new_tokens: int,
                     device: torch.device) -> list[Answer]:
    """Each prompt's likeliest continuation, token by token, up to its end token or the budget; in their order."""
    def write(rows: list[int]) -> Tensor:
        ids, last = pad_ids([prompts[i] for i in rows])
        mask = torch.arange(ids.shape[1]) <= last[:, None]  # (B, T)
        found = gpt.generate(ids.to(device), max_new_tokens, mask=mask.to(device), temperature=0.0,
                             end=tokenizer.end_of_text)
        return found[:, ids.shape[1]:]
    return write_answers([len(ids) for ids in prompts], tokenizer, max_new_tokens, write, "answering")


def row_nats(model: nn.Module, part: Examples, device: torch.device, show: str) -> np.ndarray:
    """The cross entropy of each row in nats (n,), summed over its supervised tokens."""
    found = []
    with progress(show, len(part.rows), unit="records") as advance:
        for row in range(len(part.rows)):
            found.append(answer_nats(model, part, [[row]], device))
            advance(1)
    return np.concatenate(found)


def evaluate(before: NextToken, after: NextToken, tokenizer: Tokenizer, records: dict[str, list[dict]],
             settings: Instruct, max_length: int, resamples: int, seed: int,
             device: torch.device) -> tuple[dict, list[dict]]:
    """Answers to the test's questions, and losses on the answers of test and validation, before and after training.

    Records that do not fit are left out, as in training. Returns eval.json's keys, and for each test record its row,
    question, reference, and the answers after and before and to the nearest training question.
    """
    models = {"before": before.eval(), "after": after.eval()}
    parts = {(name, on): examples(records[name], tokenizer, settings.model_copy(update={"loss_on": on}), max_length)
             for on in dict.fromkeys(("answer", settings.loss_on)) for name in ("test", "val")}
    parts |= {(name, "words"): parts[name, "answer"].without(tokenizer.end_of_text) for name in ("test", "val")}
    nats = {(state, *key): row_nats(model, part, device, f"losses, {' '.join((*key, state))}")
            for key, part in parts.items() for state, model in models.items()}
    known = set(parts["test", "answer"].rows)
    test = [record for record in records["test"] if record["row"] in known]
    questions = [question(record) for record in test]
    prompts = [prompt_ids(record, tokenizer, settings, after.gpt.config.context) for record in test]
    written = {}
    for state, model in models.items():
        found = generate_answers(model.gpt, prompts, tokenizer, settings.max_new_tokens, device)
        written[state] = Written([own.text for own in found], [own.ended for own in found],
                                 nats[state, "test", "answer"])
    nearest = nearest_answers([question(record) for record in records["train"]],
                              [answer(record) for record in records["train"]], questions)
    references = References([answer(record) for record in test], np.array(parts["test", "answer"].learnt()),
                            markers(settings))
    clean = clean_rows([question(record) for name in ("train", "val") for record in records[name]], questions,
                       fold_text)
    report = score_answers(written["after"], references, {UNTUNED: written["before"], NEAREST: Written(nearest)},
                           clean, resamples, seed)
    report["losses"] = [
        {"split": name, "on": on} | {state: loss_metrics(nats[state, name, on], np.array(part.learnt()), resamples,
                                                         seed)["log_loss"] for state in models}
        for (name, on), part in parts.items()]
    columns = {"row": [record["row"] for record in test], "question": questions, "reference": references.texts,
               "answer": written["after"].texts, "untuned": written["before"].texts, "nearest": nearest}
    return report, [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

"""The task ``classify``: a text belongs to one of K labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import psutil
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.nn import functional as F

from finetune.console import progress, say
from finetune.errors import DataError, listed, shorten
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.recipe import Recipe, Split, Train
from finetune.tables.checks import Finding, by_gravity, check_rows
from finetune.tables.near_duplicates import find_near_duplicates
from finetune.tables.readers import LabelledTexts, text_chunks
from finetune.tables.splits import SPLITS, balanced_split, grouped_split, keep_sides, ordered_split, text_keys
from finetune.tokenizer import Tokenizer
from finetune.training.collate import pad_ids, pad_states
from finetune.training.loop import Job, autocast
from finetune.training.predict import encode, predict_logits
from finetune.training.prefix_cache import build_prefix_cache, cache_bytes
from finetune.training.token_rows import TokenRows
from finetune.training.trainable import Trainable

CACHE_LIMIT = 4 << 30  # bytes of frozen states kept in memory at most; above it the blocks run anew in each epoch


@dataclass(frozen=True)
class Examples:
    """Tokenized rows of one split."""

    rows: list[int]  # row numbers in the source file
    ids: TokenRows
    targets: np.ndarray  # label numbers (n,)


class Records(Sequence):
    """Rows of a split as {"row", "text", "label"}, each made when it is asked for."""

    def __init__(self, source: LabelledTexts, positions: list[int]):
        self.source, self.positions = source, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict:
        i = self.positions[index]
        return {"row": self.source.rows[i], "text": self.source.texts[i], "label": self.source.labels[i]}


def prepare(recipe: Recipe, source: LabelledTexts, tokenizer: Tokenizer, context: int,
            findings: Sequence[Finding] = ()) -> tuple[dict, dict]:
    """Split the rows. Returns (records by split, data card); a record is {"row", "text", "label"}.

    findings: what is known already of the files, to stand in the card beside what is found in the rows.
    Memory beyond the texts themselves is some tens of bytes a row.
    """
    split = recipe.split
    keys = text_keys(source.texts)
    parts = split_rows(split, source, keys)
    counts = np.unique(keys, return_counts=True)[1]
    labels = set(source.labels)
    for name in SPLITS:
        missing = sorted(labels - {source.labels[i] for i in parts[name]})
        if not parts[name] or (name == "train" and missing):
            merged = split.protocol == "grouped" and 2 * len(counts) <= len(source.texts)
            raise _too_few_rows(name, missing, source, len(counts) if merged else None, recipe.columns.group)

    max_length = min(recipe.max_length or context, context)
    used = np.sort(np.concatenate([parts[name] for name in SPLITS]))
    all_lengths = token_lengths(tokenizer, source.texts)
    lengths = all_lengths[used]
    near = find_near_duplicates(source.texts, keys)
    shared = _shared_groups(source, parts)
    checks = by_gravity([*findings, *shared, *check_rows(source, keys, near, all_lengths, max_length)])
    distinct = {blake2b(f"{label}\0{text}".encode("utf-8", "replace"), digest_size=8).digest()
                for text, label in zip(source.texts, source.labels, strict=True)}
    card = {
        "rows": len(source.texts), "labels": dict(Counter(source.labels).most_common()),
        "columns": {"text": source.text_column, "label": source.label_column}, "dropped": source.dropped,
        "exact_duplicates": len(source.texts) - len(distinct),
        "groups": len(counts),
        "protocol": split.protocol, "seed": split.seed,
        "splits": {name: {"rows": len(parts[name]),
                          "labels": dict(Counter(source.labels[i] for i in parts[name]).most_common())}
                   for name in SPLITS},
        "unused_rows": len(source.texts) - len(used),
        "tokens": {"median": int(np.median(lengths)), "p95": int(np.percentile(lengths, 95)),
                   "max": int(lengths.max()), "total": int(lengths.sum()), "max_length": max_length,
                   "cut_rows": int((lengths > max_length).sum())},
        "near_duplicates": {"rows": len(near.rows()), "test_rows_near_train": int(
            (np.isin(near.cluster[parts["test"]], near.cluster[parts["train"]])
             & ~np.isin(keys[parts["test"]], keys[parts["train"]])).sum())},
        "checks": [finding.as_dict() for finding in checks],
        "notes": _notes(recipe, source, parts, int(counts.max()), keys) + [finding.what for finding in shared]}
    return {name: Records(source, parts[name]) for name in SPLITS}, card


def split_rows(split: Split, source: LabelledTexts, keys: np.ndarray) -> dict[str, list[int]]:
    """Which row goes where, by the recipe's protocol; rows that came on a side stay there."""
    if split.protocol != "grouped":
        if source.groups or any(source.sides):
            what = f"split.protocol={split.protocol}"
            raise DataError(f"{what} draws from one table without groups and splits of its own",
                            do="Leave columns.group, columns.split, validation and test out, or take protocol=grouped.")
        if split.protocol == "ordered":
            return ordered_split(len(source.texts), split.val_fraction, split.test_fraction)
        return balanced_split(source.labels, split.val_fraction, split.test_fraction, split.seed)

    def divide(rows: list[int], val: bool, test: bool) -> dict[str, list[int]]:
        texts, labels = ([part[i] for i in rows] for part in (source.texts, source.labels))
        return grouped_split(texts, labels, split.val_fraction * val, split.test_fraction * test, split.seed,
                             [source.groups[i] for i in rows] if source.groups else None, keys[rows])
    if any(source.sides):
        return keep_sides(source.sides, divide)
    return grouped_split(source.texts, source.labels, split.val_fraction, split.test_fraction, split.seed,
                         source.groups, keys)


def token_lengths(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Tokens of each text (n,), without a place where all ids are in memory."""
    lengths = np.zeros(len(texts), dtype=np.int64)
    with progress("counting tokens", len(texts), unit="texts") as advance:
        for start, part in text_chunks(texts):
            lengths[start:start + len(part)] = [len(ids) for ids in tokenizer.encode_batch(part)]
            advance(len(part))
    return lengths


def _too_few_rows(split: str, missing: list[str], source: LabelledTexts, texts: int | None,
                  group: str | None) -> DataError:
    """texts: how many different ones, where that may be the reason; group: the column of groups."""
    got = listed([f"{shorten(label)} {n}" for label, n in Counter(source.labels).most_common()])
    mend = "Add rows of these labels, or leave the labels out."
    groups = len(set(source.groups) - {""})
    if 0 < 2 * groups <= len(source.texts):
        got += f"; {groups} groups in column {group!r} in {len(source.texts)} rows"
        mend = ("Rows of a group stay on one side, so each side needs groups of its own, and the training's those of "
                "every label: name a column of more groups, or leave --group out.")
    elif texts is not None:
        got += f"; {texts} different texts in {len(source.texts)} rows"
        mend = "Texts that differ in case, digits or white space alone count as one: add others."
    return DataError(f"too few rows: the {split} split has none of {listed(missing)}", got=got, do=mend)


def _notes(recipe: Recipe, source: LabelledTexts, parts: dict, largest: int, keys: np.ndarray) -> list[str]:
    notes = [*source.notes, *map(str, source.left_out)]
    together = "rows with the same text after normalising (NFKC, casefold, digits to 0, white space folded) "
    if recipe.split.protocol == "balanced":
        used = sum(map(len, parts.values()))
        notes.append(f"the larger classes were cut down at random: {used} of {len(source.texts)} rows are used, and "
                     "the same text can stand in train and in test (see the overlap)")
    elif any(source.sides) or recipe.split.protocol == "ordered":
        if recipe.split.protocol == "ordered":
            notes.append("rows stand on a side by their place in the file: those to train on, the test's, the "
                         "validation's")
        notes += _given_sides(source, parts, keys)
    else:
        notes.append(together + "stand in the same split")
        shares = {"val": recipe.split.val_fraction, "test": recipe.split.test_fraction}
        shares = {"train": 1 - sum(shares.values())} | shares
        for name, share in shares.items():
            held, wanted = len(parts[name]), share * len(source.texts)
            if largest > 1 and abs(held - wanted) > max(0.2 * wanted, 2):  # two rows are rounding
                notes.append(f"the {name} split holds {held / len(source.texts):.0%} of the rows instead of "
                             f"{share:.0%}: rows of the same normalised text stay together, and the largest such group "
                             f"has {largest} rows")
    if any(source.groups):
        notes.append(f"rows with the same {recipe.columns.group!r} stand in the same split")
    return notes


def _given_sides(source: LabelledTexts, parts: dict, keys: np.ndarray) -> list[str]:
    """What a split that came with the data leaves on two sides."""
    came = [name for name in ("val", "test") if name in source.sides]
    notes = [f"the {' and '.join(came)} rows came apart from the others and stay there" if came else ""]
    for name, others in (("val", ["train"]), ("test", ["train", "val"])):
        seen = np.concatenate([parts[other] for other in others]).astype(int)
        if both := int(np.isin(keys[parts[name]], keys[seen]).sum()):
            notes.append(f"{both} of {len(parts[name])} {name} rows have a text that stands in {' or '.join(others)} "
                         "too, after normalising: figures without them stand beside the full ones")
    return [note for note in notes if note]


def _shared_groups(source: LabelledTexts, parts: dict) -> list[Finding]:
    """Groups that a split that came with the data leaves on two sides."""
    found, group = [], np.array(source.groups)
    for name, others in (("val", ["train"]), ("test", ["train", "val"])) if source.groups else ():
        own, seen = group[parts[name]], group[[i for other in others for i in parts[other]]]
        if both := int((np.isin(own, seen) & (own != "")).sum()):
            what = f"{both} of {len(own)} {name} rows are of a group that is in {' or '.join(others)} too"
            found.append(Finding("shared_groups", "warning", what, "The sides are kept as they came; put all rows "
                                 "of a group on one of them, or the score flatters.", both))
    return found


def examples(records: list[dict], labels: list[str], tokenizer: Tokenizer, max_length: int) -> Examples:
    """Tokenize one split's records."""
    number = {label: i for i, label in enumerate(labels)}
    return Examples([record["row"] for record in records],
                    encode(tokenizer, [record["text"] for record in records], max_length),
                    np.array([number[record["label"]] for record in records]))


def build_model(gpt: GPT, classes: int, seed: int) -> Classifier:
    """The GPT with a fresh head."""
    return Classifier(gpt, classes).initialise_head(seed)


def class_weights(targets: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """The weight of each class in the loss (K,): ones, or n / (K * n_k) as scikit-learn's `balanced`."""
    if kind == "none":
        return np.ones(classes)
    return len(targets) / (classes * np.maximum(np.bincount(targets, minlength=classes), 1))


def keeps_states(model: Classifier, trainable: Trainable, settings: Train, ids: list[list[int]]) -> bool:
    """Whether the frozen blocks run once per text and their output is kept: where that is exact and fits in memory."""
    limit = min(CACHE_LIMIT, psutil.virtual_memory().available // 4)
    return trainable.first_block > 0 and settings.dropout == 0 and kept_bytes(model, trainable, ids) < limit


def kept_bytes(model: Classifier, trainable: Trainable, ids: list[list[int]]) -> int:
    """Memory of the frozen blocks' output for these texts; the head alone reads no position but the last."""
    return cache_bytes(ids, model.gpt.config.width, last_only=trainable.first_block == len(model.gpt.blocks))


def build_job(model: Classifier, trainable: Trainable, settings: Train, train: Examples, val: Examples,
              device: torch.device, cached: bool | None = None) -> Job:
    """Everything the loop needs; `cached`: as ``keeps_states`` says of these rows where it is not given."""
    classes = model.head.out_features
    weights = class_weights(train.targets, classes, settings.class_weights)
    weight = torch.tensor(weights, dtype=torch.float32, device=device)
    first = trainable.first_block
    if cached is None:
        cached = keeps_states(model, trainable, settings, train.ids + val.ids)
    states = val_states = None
    if cached:
        model.to(device).eval()
        with autocast(settings.precision, device):
            states, val_states = (build_prefix_cache(lambda ids: model.lower(ids, first), part.ids,
                                                     settings.micro_batch_tokens, device,
                                                     last_only=first == len(model.gpt.blocks))
                                  for part in (train, val))
    start = first if cached else 0

    def batch(rows: list[int]):
        inputs, last = pad_states([states[i] for i in rows]) if cached else pad_ids([train.ids[i] for i in rows])
        return inputs, last, torch.from_numpy(train.targets[rows])

    def loss_sum(module: nn.Module, tensors):
        inputs, last, targets = tensors
        return F.cross_entropy(module(inputs, last, start).float(), targets, weight=weight, reduction="sum")

    def validate(module: nn.Module) -> dict[str, float]:
        logits = predict_logits(module, val.ids, val_states, start, budget=settings.micro_batch_tokens)
        loss = F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(val.targets))
        guessed = logits.argmax(1)
        names = list(range(classes))
        return {"log_loss": loss.item(),
                "accuracy": float(accuracy_score(val.targets, guessed)),
                "f1_macro": float(f1_score(val.targets, guessed, average="macro", labels=names, zero_division=0))}

    if first > 0:
        say(f"  {first} frozen blocks " + ("run once per text; training starts from their output" if cached else
                                           "run in every step (dropout, or too large to keep)"))
    return Job(model, train.ids.lengths(), [float(weights[t]) for t in train.targets], batch, loss_sum,
               validate, name_row=lambda i: str(train.rows[i]), validation_tokens=sum(val.ids.lengths()))

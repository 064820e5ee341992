"""The trainings of the stage ``architectures``, one after the other, and their comparison."""

import json
import math
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.comparisons.architectures import masked as architectures_masked
from finetune.comparisons.architectures.masked import build_job, choose_masking
from finetune.comparisons.architectures.masking import Masking
from finetune.comparisons.architectures.models import (
    CLASSIFY,
    DECODER,
    ENCODER,
    MASKED,
    NUMBERS,
    RANDOM,
    READ_FIRST,
    TEXT,
    TRAININGS,
    WHOLE,
    Core,
    Reader,
    Training,
    build_model,
    class_job,
    class_logits,
    count,
    equal_layers,
    pair_job,
    pair_nll,
    with_head,
    write_targets,
)
from finetune.comparisons.architectures.numbers import in_words
from finetune.comparisons.architectures.page import verdict
from finetune.comparisons.architectures.results import ArchitecturesComparison, Entry, Group, Layers
from finetune.comparisons.results import fields_of
from finetune.config import check_names
from finetune.console import say
from finetune.errors import RecipeError, listed
from finetune.evaluation.candidates import compare_candidates, compare_rows
from finetune.evaluation.text_scores import exact_match
from finetune.files import write_json
from finetune.machine import release_memory, reset_peak_memory
from finetune.models.encoder import Encoder
from finetune.models.gpt import GPT
from finetune.models.heads import LossModule
from finetune.recipe import Recipe, Train
from finetune.records import Downloaded, Record, Verified
from finetune.run import Run
from finetune.tasks.classify.job import Examples
from finetune.tasks.classify.score import positive_label
from finetune.tasks.classify.task import ClassifyPrepared, run_examples
from finetune.tasks.pretrain.documents import iterate_pieces, locate_text
from finetune.tasks.seq2seq.layout import Pair, pieces
from finetune.tasks.setup import fit, identity, load_base, start_weights
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job, count_steps, set_threads
from finetune.training.precision import choose_precision, device_type
from finetune.training.trainable import choose_settings

if TYPE_CHECKING:
    import torch

RESULTS = "trainings.jsonl"  # a line for each training that is done
WORK = "training"  # checkpoints of those that are not
TEXT_NAME = "text-sample"
EVALUATIONS = 3  # validations of a training, at least
EXAMPLES = 6  # written numbers that the report shows
STATE_BYTES = 16  # of a parameter: weight, gradient and AdamW's two moments in fp32
QUICK = {
    "architectures": {
        "seeds": 1,
        "classify_steps": 40,
        "numbers_steps": 180,
        "text_steps": 12,
        "test_numbers": 100,
        "trainings": [
            name
            for name, own in TRAININGS.items()
            if own.task == CLASSIFY and own.start != WHOLE or own.task != CLASSIFY and own.start != RANDOM
        ],
    },
    "max_length": 64,
    "evaluate": {"resamples": 1000},
}  # of --quick


@dataclass(frozen=True)
class Datasets:
    """The tokenized data: three splits for each task."""

    classify: dict[str, Examples]
    numbers: dict[str, list[Pair]]
    text: dict[str, list[Pair]]
    text_bytes: np.ndarray  # of each test piece's target (n,)

    def rows(self, task: str) -> int:
        """Rows to train on."""
        return len(
            {CLASSIFY: self.classify["train"].ids, NUMBERS: self.numbers["train"], TEXT: self.text["train"]}[task]
        )


@dataclass(frozen=True)
class Shared:
    """What all trainings share."""

    gpt: GPT  # the base weights; each training copies them
    tokenizer: Tokenizer
    width: int
    layers: tuple[int, int]  # of the encoder-decoder whose size is the others'
    masking: Masking
    new_tokens: int  # that the encoder's embedding gets
    masking_words: str


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before any download or training, for settings that this comparison does not support or read."""
    asked = recipe.architectures.trainings
    check_names("training", asked, TRAININGS, "architectures.seeds repeats it.")
    if any(TRAININGS[name].start == MASKED for name in asked) and READ_FIRST.name not in asked:
        raise RecipeError(
            "an encoder that starts after masked words needs that training first",
            got=listed(list(asked)),
            do=f"Add {READ_FIRST.name} to architectures.trainings.",
        )
    if all(TRAININGS[name].start == WHOLE for name in asked):
        raise RecipeError("nothing to compare with", got=listed(list(asked)), do="Add trainings of equal size.")
    if recipe.task != "classify" or processes != 1:
        raise RecipeError(
            "a comparison of architectures trains in one process, classifiers among others",
            got=f"task {recipe.task}, --processes {processes}",
        )


@dataclass(frozen=True)
class ArchitecturesResult(Record):
    """The result of the stage."""

    trainings: int


def train_all(recipe: Recipe, run: Run, reads: tuple[str, ...]) -> ArchitecturesResult:
    """Write comparison.json. Finished trainings of a stopped run are not repeated."""
    base = load_base(recipe, run)
    gpt, tokenizer = base.gpt, base.tokenizer
    datasets = gather(recipe, run, tokenizer)
    layers = equal_layers(gpt.config)
    shared = Shared(gpt, tokenizer, gpt.config.width, layers, *choose_masking(tokenizer, recipe.train.seed))
    say(f"  {shared.masking_words}")
    wanted = order([TRAININGS[name] for name in recipe.architectures.trainings])
    seeds = range(recipe.train.seed, recipe.train.seed + recipe.architectures.seeds)
    machine = {"device": device_type(), "threads": str(set_threads(recipe.train.threads))}
    rests_on = identity(recipe, run, reads) | machine
    done = read_results(run.path(RESULTS), rests_on)
    total, number = len(wanted) * len(seeds), 0
    for seed in seeds:
        for training in wanted:
            number += 1
            key = f"{training.name}-{seed}"
            if key in done and (training != READ_FIRST or _reads_first_is_over(run, wanted, done, seed)):
                continue
            say(f"[{number}/{total}] {training.task}: {training.label}, {_start_words(recipe, training)}, seed {seed}")
            found = _fit(recipe, run, training, seed, shared, datasets, rests_on)
            done[key] = rests_on | {"key": key} | found
            _append(run.path(RESULTS), done[key])
            say(f"  {found['said']}, trained in {found['seconds']:.0f} s")
    comparison = compare(
        recipe,
        run,
        datasets,
        wanted,
        {key: done[key] for key in (f"{training.name}-{seed}" for training in wanted for seed in seeds)},
        shared,
    )
    write_json(run.path("comparison.json"), comparison.to_json())
    shutil.rmtree(run.path(WORK), ignore_errors=True)
    say(verdict(comparison))
    return ArchitecturesResult(total)


def order(wanted: list[Training]) -> list[Training]:
    """The trainings, with the masked one before those that start from its weights."""
    return sorted(wanted, key=lambda own: own != READ_FIRST)


def read_results(path: Path, rests_on: dict) -> dict[str, dict]:
    """Finished trainings by key: complete lines from the same recipe, data, weights and machine."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:  # cut short by a crash
            continue
        if isinstance(entry, dict) and rests_on.items() <= entry.items():
            found[entry["key"]] = entry
    return found


def _append(path: Path, entry: dict) -> None:
    """Append a line, after ending one that a crash left incomplete."""
    with open(path, "ab+") as file:
        file.seek(max(file.tell() - 1, 0))
        ended = file.read(1) in (b"", b"\n")
        file.write((b"" if ended else b"\n") + json.dumps(entry, allow_nan=False).encode() + b"\n")


def _reads_first_is_over(run: Run, wanted: list[Training], done: dict, seed: int) -> bool:
    """Whether the masked encoder's weights exist, or no remaining training starts from them."""
    later = [own for own in wanted if own.start == MASKED and f"{own.name}-{seed}" not in done]
    return not later or _masked_weights(run, seed).exists()


def _masked_weights(run: Run, seed: int) -> Path:
    return run.path(WORK, f"masked-{seed}.safetensors")


def _start_words(recipe: Recipe, training: Training) -> str:
    return "random start" if training.start == RANDOM else f"from {recipe.weights.rpartition('/')[2]}"


def gather(recipe: Recipe, run: Run, tokenizer: Tokenizer) -> Datasets:
    """All training data, tokenized."""
    asked, seed = recipe.architectures, recipe.split.seed
    examples = run_examples(run)
    drawn = np.random.default_rng(seed).permutation(asked.number_limit).tolist()
    most = asked.numbers_steps * recipe.train.batch_size
    ends = (asked.test_numbers, asked.test_numbers + min(50, asked.test_numbers))
    parts = {"test": drawn[: ends[0]], "val": drawn[ends[0] : ends[1]], "train": drawn[ends[1] :][: min(most, 5000)]}
    if not parts["train"]:
        raise RecipeError(
            "no numbers are left for training",
            got=f"architectures.number_limit {asked.number_limit}",
            do="Raise it, or lower architectures.test_numbers.",
        )
    numbers = {
        name: [Pair(tokenizer.encode(f"{n:,}"), tokenizer.encode(in_words(n))) for n in part]
        for name, part in parts.items()
    }
    documents = [text.strip() for text, _ in iterate_pieces(locate_text(TEXT_NAME).path)]
    shuffled = [documents[i] for i in np.random.default_rng(seed).permutation(len(documents))]
    held, val = len(documents) // 4, len(documents) // 10
    cut = {"test": shuffled[:held], "val": shuffled[held : held + val], "train": shuffled[held + val :]}
    text = {
        name: pieces(tokenizer.encode_batch(part), asked.piece_tokens, tokenizer.end_of_text)
        for name, part in cut.items()
    }
    if empty := [name for name, part in text.items() if not part]:
        raise RecipeError(
            f"no piece of text is left for {empty[0]}",
            got=f"architectures.piece_tokens {asked.piece_tokens}",
            do="Lower it.",
        )
    lengths = np.array(tokenizer.byte_lengths())
    return Datasets(examples, numbers, text, np.array([lengths[pair.target].sum() for pair in text["test"]]))


def settings_for(
    asked: Train, training: Training, rows: int, parameters: int, width: int, seed: int, steps: int
) -> Train:
    """The recipe's settings for one training: a fixed number of steps without early stopping, so all read the same amount."""
    settings, _ = choose_settings(
        asked.model_copy(update={"method": "full", "epochs": 1, "seed": seed}),
        parameters,
        training.start != RANDOM,
        rows,
        device_type(),
    )
    per_epoch, _ = count_steps(rows, settings)
    epochs = math.ceil(steps / per_epoch)
    return settings.model_copy(
        update={
            "epochs": epochs,
            "max_steps": steps,
            "patience": epochs + EVALUATIONS,
            "evaluations_per_epoch": math.ceil(EVALUATIONS / epochs),
            "metric": asked.metric if training.task == CLASSIFY else "log_loss",
            "precision": choose_precision(settings.precision, width)[0],
        }
    )


def _fit(
    recipe: Recipe, run: Run, training: Training, seed: int, shared: Shared, datasets: Datasets, rests_on: dict
) -> dict:
    """Run one training and test its best checkpoint."""
    import torch
    from safetensors.torch import load_file, save_file

    device, asked, own = torch.device(device_type()), recipe.architectures, getattr(datasets, training.task)
    directory = run.path(WORK, f"{training.name}-{seed}")
    directory.mkdir(parents=True, exist_ok=True)
    release_memory()
    reset_peak_memory()
    core = build_model(deepcopy(shared.gpt), training, seed, shared.new_tokens, shared.layers)
    if training.start == MASKED:
        core.load_state_dict(load_file(_masked_weights(run, seed)))
    parameters = count(core)
    steps = {CLASSIFY: asked.classify_steps, NUMBERS: asked.numbers_steps, TEXT: asked.text_steps}[training.task]
    settings = settings_for(recipe.train, training, datasets.rows(training.task), parameters, shared.width, seed, steps)
    budget, end = settings.micro_batch_tokens, shared.tokenizer.end_of_text
    job: Job[Any]
    if training.task == CLASSIFY:
        model = with_head(core, len(run.result("prepare", ClassifyPrepared).labels), end, seed)
        job = class_job(model, own["train"], own["val"], budget, device)
    elif training.architecture == ENCODER:
        assert isinstance(core, Encoder)
        job = build_job(core, whole(own["train"]), whole(own["val"]), shared.masking, budget, device)
    else:
        job = pair_job(core, own["train"], own["val"], end, device)
    found = fit(job, settings, directory, rests_on)
    curve = read_curve(directory / "train.jsonl")
    measured = _measure(training, job.model.eval(), core, datasets, shared, budget, device)
    if training == READ_FIRST:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in core.state_dict().items()},
            _masked_weights(run, seed),
        )
    shutil.rmtree(directory)
    return measured | {
        "parameters": parameters,
        "state_bytes": STATE_BYTES * count(job.model),
        "lr": settings.lr,
        "precision": settings.precision,
        "curve": curve,
        **{key: getattr(found, key) for key in ("seconds", "steps", "tokens", "best_step", "peak_bytes")},
    }


def _measure(
    training: Training,
    model: Reader | LossModule,
    core: Core,
    datasets: Datasets,
    shared: Shared,
    budget: int,
    device: "torch.device",
) -> dict:
    """A score of each test row: the class, whether a number is right, or nats; `said` sums them up."""
    test, tokenizer = getattr(datasets, training.task)["test"], shared.tokenizer
    if training.task == CLASSIFY:
        assert not isinstance(model, LossModule)
        guessed = class_logits(model, test.ids, budget, device).argmax(1)
        return {"scores": guessed.tolist(), "said": f"test accuracy {np.mean(guessed == test.targets):.4f}"}
    if training.task == NUMBERS:
        assert not isinstance(core, Encoder)
        written = write_targets(core, test, tokenizer, device)
        answers = [tokenizer.decode(pair.target) for pair in test]
        right = exact_match(written, answers).astype(int).tolist()
        examples = [
            [tokenizer.decode(pair.source), answer, one]
            for pair, answer, one in zip(test, answers, written, strict=True)
        ][:EXAMPLES]
        return {"scores": right, "examples": examples, "said": f"exact match {np.mean(right):.4f}"}
    assert isinstance(model, LossModule)
    if training.architecture == ENCODER:
        nats, counts = architectures_masked.measure(model, whole(test), shared.masking, 1, device)  # a row at a time
        return {
            "scores": nats.tolist(),
            "parts": counts.tolist(),
            "said": f"nats per masked token {nats.sum() / counts.sum():.4f}",
        }
    nats = pair_nll(model, test, tokenizer.end_of_text, device)
    bits = nats.sum() / datasets.text_bytes.sum() / math.log(2)
    return {"scores": nats.tolist(), "parts": datasets.text_bytes.tolist(), "said": f"bits per byte {bits:.4f}"}


def whole(pairs: list[Pair]) -> list[list[int]]:
    """Source and target of running text as one row."""
    return [pair.source + pair.target for pair in pairs]


def read_curve(path: Path) -> list[list[float]]:
    """(step, validation loss) of a training's log."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [[line["step"], line["validation"]["log_loss"]] for line in lines if "validation" in line]


def compare(
    recipe: Recipe, run: Run, datasets: Datasets, wanted: list[Training], results: dict[str, dict], shared: Shared
) -> ArchitecturesComparison:
    """For each task and start the architectures beside each other, on the same rows."""
    asked, prepared = recipe.architectures, run.result("prepare", ClassifyPrepared)
    labels, seeds = prepared.labels, range(recipe.train.seed, recipe.train.seed + asked.seeds)
    positive = positive_label(recipe, labels)
    groups = []
    for task, random in ((task, random) for task in (CLASSIFY, NUMBERS, TEXT) for random in (True, False)):
        own = [
            one for one in TRAININGS.values() if one in wanted and one.task == task and (one.start == RANDOM) == random
        ]
        apart = [one for one in own if task == TEXT and one.architecture == ENCODER]
        for measure, members in (("", [one for one in own if one not in apart]), ("masked", apart)):
            if members:
                fits = {one.name: [results[f"{one.name}-{seed}"] for seed in seeds] for one in members}
                groups.append(_group(recipe, datasets, labels, positive, task, measure, members, fits))
    sizes = {one.architecture: results[f"{one.name}-{seeds[0]}"]["parameters"] for one in wanted if one.start != WHOLE}
    first = next(iter(results.values()))
    return ArchitecturesComparison(
        schema_version=1,
        task="architectures",
        labels=labels,
        positive=None if positive is None else labels[positive],
        seeds=list(seeds),
        layers=Layers(*shared.layers, run.result("verify", Verified).layers),
        sizes=sizes,
        apart=max(sizes.values()) / min(sizes.values()) - 1,
        masking=shared.masking_words,
        piece_tokens=asked.piece_tokens,
        number_limit=asked.number_limit,
        batch_size=recipe.train.batch_size,
        device=first["device"],
        threads=first["threads"],
        precision=first["precision"],
        weights=start_weights(run.result("download", Downloaded).weights),
        groups=groups,
    )


def _group(
    recipe: Recipe,
    datasets: Datasets,
    labels: list[str],
    positive: int | None,
    task: str,
    measure: str,
    members: list[Training],
    fits: dict[str, list[dict]],
) -> Group:
    """One table: the members' figures on the same rows, each beside the decoder where there is one."""
    resamples, seed = recipe.evaluate.resamples, recipe.split.seed
    reference = next((one.name for one in members if one.architecture == DECODER), members[0].name)
    scores = {name: np.array([fit["scores"] for fit in own]) for name, own in fits.items()}
    majority = None
    if task == CLASSIFY:
        metric = "accuracy"
        commonest = np.bincount(datasets.classify["train"].targets).argmax()
        majority = float(np.mean(datasets.classify["test"].targets == commonest))
        found = compare_candidates(
            datasets.classify["test"].targets, scores, len(labels), positive, reference, resamples, seed
        )
    else:
        metric = "exact_match" if task == NUMBERS else "log_loss" if measure else "bits_per_byte"
        parts = fits[reference][0].get("parts")
        scale = math.log(2) if metric == "bits_per_byte" else 1.0
        found = compare_rows(
            {name: own / scale for name, own in scores.items()}, metric, reference, resamples, seed, parts
        )
    entries = []
    for one in members:
        own = fits[one.name]
        means: dict[str, Any] = {key: float(np.mean([fit[key] for fit in own])) for key in ("seconds", "peak_bytes")}
        first = {key: own[0][key] for key in ("parameters", "state_bytes", "lr", "steps", "tokens")}
        entries.append(
            Entry(
                name=one.name,
                label=one.label,
                architecture=one.architecture,
                **fields_of(found[one.name]),
                **means,
                **first,
                curve=[tuple(point) for point in own[0]["curve"]],
                examples=[tuple(example) for example in own[0].get("examples", [])],
            )
        )
    return Group(
        task=task,
        measure=measure,
        start=RANDOM if members[0].start == RANDOM else recipe_name(recipe),
        metric=metric,
        reference=reference,
        entries=entries,
        rows=datasets.rows(task),
        majority=majority,
    )


def recipe_name(recipe: Recipe) -> str:
    """The weights' name without the folders before it."""
    return recipe.weights.rpartition("/")[2]

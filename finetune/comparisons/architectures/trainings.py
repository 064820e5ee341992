"""The trainings of the stage ``architectures``, which run one after another, and their comparison."""

import json
import math
import shutil
from collections.abc import Container
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.comparisons.architectures import masked as architectures_masked
from finetune.comparisons.architectures.compare import compare
from finetune.comparisons.architectures.datasets import Datasets, gather, whole
from finetune.comparisons.architectures.finished import FinishedTraining, Scored, append_finished, read_finished
from finetune.comparisons.architectures.masked import build_job
from finetune.comparisons.architectures.models import (
    CLASSIFY,
    ENCODER,
    MASKED,
    NUMBERS,
    RANDOM,
    READ_FIRST,
    TEXT,
    TRAININGS,
    WHOLE,
    Core,
    Labeller,
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
from finetune.comparisons.architectures.page import verdict
from finetune.comparisons.results import Basis
from finetune.config import check_names
from finetune.console import say
from finetune.errors import RecipeError, listed
from finetune.evaluation.text_scores import exact_match
from finetune.files import write_json
from finetune.machine import release_memory, reset_peak_memory
from finetune.models.encoder import Encoder
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier, EncoderDecoderClassifier, LossModule
from finetune.recipe import Recipe, Train
from finetune.records import Record
from finetune.run import Run
from finetune.tasks.classify.labelled import ClassifyPrepared
from finetune.tasks.pretrain.masking import Masking, choose_masking
from finetune.tasks.seq2seq.model import Family
from finetune.tasks.setup import fit, identity, load_base
from finetune.tokenizer import Tokenizer
from finetune.training.job import Job
from finetune.training.loop import count_steps, set_threads
from finetune.training.precision import choose_precision, device_type
from finetune.training.trainable import choose_settings

if TYPE_CHECKING:
    import torch

RESULTS = "trainings.jsonl"  # one line per finished training
WORK = "training"  # checkpoints of unfinished trainings
EVALUATIONS = 3  # minimum validations per training
EXAMPLES = 6  # generated numbers in the report
STATE_BYTES = 16  # per parameter: weight, gradient and AdamW's two moments in fp32
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
}  # settings of --quick


@dataclass(frozen=True)
class Shared:
    """The values that all trainings share."""

    gpt: GPT  # the base weights; each training copies them
    tokenizer: Tokenizer
    width: int
    layers: tuple[int, int]  # of the encoder-decoder of equal size
    masking: Masking
    new_tokens: int  # new rows of the encoder's embedding
    masking_words: str


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise RecipeError, before any download or training, for settings that this comparison does not support."""
    asked = recipe.architectures.trainings
    check_names("training", asked, TRAININGS, "To train it several times, set architectures.seeds.")
    if any(TRAININGS[name].start == MASKED for name in asked) and READ_FIRST.name not in asked:
        raise RecipeError(
            "a training with start masked needs the masked-word training",
            got=listed(list(asked)),
            do=f"Add {READ_FIRST.name} to architectures.trainings.",
        )
    if all(TRAININGS[name].start == WHOLE for name in asked):
        raise RecipeError(
            "trainings with start whole need others to compare with",
            got=listed(list(asked)),
            do="Add trainings of equal size.",
        )
    if recipe.classify.labels == "many":
        raise RecipeError("a comparison of architectures needs one label per row", got="classify.labels=many")
    if recipe.classify.long_texts == "windows":
        raise RecipeError(
            "a comparison of architectures reads each text once",
            got="classify.long_texts=windows",
            do="Use cut or head-tail.",
        )
    if recipe.task != "classify" or processes != 1:
        raise RecipeError(
            "a comparison of architectures needs task classify and one process",
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
    basis = Basis(**identity(recipe, run, reads), device=device_type(), threads=str(set_threads(recipe.train.threads)))
    done = read_finished(run.path(RESULTS), basis)
    total, number = len(wanted) * len(seeds), 0
    for seed in seeds:
        for training in wanted:
            number += 1
            key = training.key(seed)
            if key in done and (training != READ_FIRST or _reads_first_is_over(run, wanted, done, seed)):
                continue
            say(f"[{number}/{total}] {training.task}: {training.label}, {_start_words(recipe, training)}, seed {seed}")
            done[key] = _fit(recipe, run, training, seed, shared, datasets, basis)
            append_finished(run.path(RESULTS), done[key])
            say(f"  {done[key].said}, trained in {done[key].seconds:.0f} s")
    comparison = compare(
        recipe,
        run,
        datasets,
        wanted,
        {key: done[key] for key in (training.key(seed) for training in wanted for seed in seeds)},
        shared.layers,
        shared.masking_words,
    )
    write_json(run.path("comparison.json"), comparison.to_json())
    shutil.rmtree(run.path(WORK), ignore_errors=True)
    say(verdict(comparison))
    return ArchitecturesResult(total)


def order(wanted: list[Training]) -> list[Training]:
    """The trainings, with the masked one before those that start from its weights."""
    return sorted(wanted, key=lambda own: own != READ_FIRST)


def _reads_first_is_over(run: Run, wanted: list[Training], done: Container[str], seed: int) -> bool:
    """Whether the masked encoder's weights exist, or no remaining training starts from them."""
    later = [own for own in wanted if own.start == MASKED and own.key(seed) not in done]
    return not later or _masked_weights(run, seed).exists()


def _masked_weights(run: Run, seed: int) -> Path:
    return run.path(WORK, f"masked-{seed}.safetensors")


def _start_words(recipe: Recipe, training: Training) -> str:
    return "random start" if training.start == RANDOM else f"from {recipe.weights.rpartition('/')[2]}"


def settings_for(
    asked: Train, training: Training, rows: int, parameters: int, width: int, seed: int, steps: int
) -> Train:
    """The recipe's settings for one training: a fixed number of steps, no early stopping, so that all read equally many rows."""
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
    recipe: Recipe, run: Run, training: Training, seed: int, shared: Shared, datasets: Datasets, basis: Basis
) -> FinishedTraining:
    """Run one training and test its best checkpoint."""
    import torch
    from safetensors.torch import load_file, save_file

    device, asked, own = torch.device(device_type()), recipe.architectures, getattr(datasets, training.task)
    directory = run.path(WORK, training.key(seed))
    directory.mkdir(parents=True, exist_ok=True)
    release_memory()
    reset_peak_memory()
    core = build_model(deepcopy(shared.gpt), training, seed, shared.new_tokens, shared.layers)
    if training.start == MASKED:
        core.load_state_dict(load_file(_masked_weights(run, seed)))
    parameters = count(core)
    steps = {CLASSIFY: asked.classify_steps, NUMBERS: asked.numbers_steps, TEXT: asked.text_steps}[training.task]
    settings = settings_for(recipe.train, training, datasets.rows(training.task), parameters, shared.width, seed, steps)
    budget, end = settings.tokens_per_pass, shared.tokenizer.end_of_text
    job: Job[Any]
    if training.task == CLASSIFY:
        model = with_head(core, len(run.result("prepare", ClassifyPrepared).labels), end, seed)
        job = class_job(model, own["train"], own["val"], budget, device)
    elif training.architecture == ENCODER:
        assert isinstance(core, Encoder)
        job = build_job(core, whole(own["train"]), whole(own["val"]), shared.masking, budget, device)
    else:
        assert not isinstance(core, Encoder)
        job = pair_job(core, own["train"], own["val"], end, device)
    found = fit(job, settings, directory, vars(basis))
    curve = read_curve(directory / "train.jsonl")
    scored = _measure(training, job.model.eval(), core, datasets, shared, budget, device)
    if training == READ_FIRST:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in core.state_dict().items()},
            _masked_weights(run, seed),
        )
    shutil.rmtree(directory)
    return FinishedTraining(
        **vars(basis),
        key=training.key(seed),
        **vars(scored),
        parameters=parameters,
        state_bytes=STATE_BYTES * count(job.model),
        lr=settings.chosen_lr,
        precision=settings.precision,
        curve=curve,
        seconds=found.seconds,
        steps=found.steps,
        tokens=found.tokens,
        best_step=found.best_step,
        peak_bytes=found.peak_bytes,
    )


def _measure(
    training: Training,
    model: Labeller | LossModule | Family,
    core: Core,
    datasets: Datasets,
    shared: Shared,
    budget: int,
    device: "torch.device",
) -> Scored:
    """A score for each test row (predicted class, correct or not, or nats), and a summary in `said`."""
    test, tokenizer = getattr(datasets, training.task)["test"], shared.tokenizer
    if training.task == CLASSIFY:
        assert isinstance(model, Classifier | EncoderDecoderClassifier)
        guessed = class_logits(model, test.ids, budget, device).argmax(1)
        return Scored(scores=guessed.tolist(), said=f"test accuracy {np.mean(guessed == test.targets):.4f}")
    if training.task == NUMBERS:
        assert not isinstance(core, Encoder)
        written = write_targets(core, test, tokenizer, device)
        answers = [tokenizer.decode(pair.target) for pair in test]
        right = exact_match(written, answers).astype(int).tolist()
        examples = [
            (tokenizer.decode(pair.source), answer, one)
            for pair, answer, one in zip(test, answers, written, strict=True)
        ][:EXAMPLES]
        return Scored(scores=right, examples=examples, said=f"exact match {np.mean(right):.4f}")
    if training.architecture == ENCODER:
        assert isinstance(model, LossModule)
        nats, counts = architectures_masked.measure(model, whole(test), shared.masking, 1, device)  # a row at a time
        return Scored(
            scores=nats.tolist(), parts=counts.tolist(), said=f"nats per masked token {nats.sum() / counts.sum():.4f}"
        )
    assert isinstance(model, Family)
    nats = pair_nll(model, test, device)
    bits = nats.sum() / datasets.text_bytes.sum() / math.log(2)
    return Scored(scores=nats.tolist(), parts=datasets.text_bytes.tolist(), said=f"bits per byte {bits:.4f}")


def read_curve(path: Path) -> list[tuple[int, float]]:
    """(step, validation loss) of a training's log."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["validation"]["log_loss"]) for line in lines if "validation" in line]

"""The comparison of the finished trainings: for each task and initialisation, the architectures on the same test rows."""

import math

import numpy as np

from finetune.comparisons.architectures.datasets import Datasets
from finetune.comparisons.architectures.finished import FinishedTraining
from finetune.comparisons.architectures.models import (
    CLASSIFY,
    DECODER,
    ENCODER,
    NUMBERS,
    RANDOM,
    TEXT,
    TRAININGS,
    WHOLE,
    Training,
)
from finetune.comparisons.architectures.results import ArchitecturesComparison, Entry, Group, Layers
from finetune.comparisons.results import fields_of
from finetune.evaluation.candidates import compare_candidates, compare_rows
from finetune.recipe import Recipe
from finetune.records import Downloaded, Verified
from finetune.run import Run
from finetune.tasks.classify.labelled import ClassifyPrepared
from finetune.tasks.classify.score import positive_label
from finetune.tasks.setup import start_weights


def compare(
    recipe: Recipe,
    run: Run,
    datasets: Datasets,
    wanted: list[Training],
    results: dict[str, FinishedTraining],
    layers: tuple[int, int],
    masking: str,
) -> ArchitecturesComparison:
    """Compare the architectures for each task and initialisation on the same rows.

    results: by ``Training.key``. layers: of the encoder-decoder, from ``equal_layers``. masking: a phrase on how words
    are masked.
    """
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
                fits = {one.name: [results[one.key(seed)] for seed in seeds] for one in members}
                groups.append(_group(recipe, datasets, labels, positive, task, measure, members, fits))
    sizes = {one.architecture: results[one.key(seeds[0])].parameters for one in wanted if one.start != WHOLE}
    first = next(iter(results.values()))
    return ArchitecturesComparison(
        schema_version=1,
        task="architectures",
        labels=labels,
        positive=None if positive is None else labels[positive],
        seeds=list(seeds),
        layers=Layers(*layers, run.result("verify", Verified).layers),
        sizes=sizes,
        apart=max(sizes.values()) / min(sizes.values()) - 1,
        masking=masking,
        piece_tokens=asked.piece_tokens,
        number_limit=asked.number_limit,
        batch_size=recipe.train.batch_size,
        device=first.device,
        threads=first.threads,
        precision=first.precision,
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
    fits: dict[str, list[FinishedTraining]],
) -> Group:
    """One table: the members' metrics on the same rows, compared with the decoder if there is one."""
    resamples, seed = recipe.evaluate.resamples, recipe.split.seed
    reference = next((one.name for one in members if one.architecture == DECODER), members[0].name)
    scores = {name: np.array([fit.scores for fit in own]) for name, own in fits.items()}
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
        parts = fits[reference][0].parts or None
        scale = math.log(2) if metric == "bits_per_byte" else 1.0
        found = compare_rows(
            {name: own / scale for name, own in scores.items()}, metric, reference, resamples, seed, parts
        )
    entries = []
    for one in members:
        own, first = fits[one.name], fits[one.name][0]
        entries.append(
            Entry(
                name=one.name,
                label=one.label,
                architecture=one.architecture,
                **fields_of(found[one.name]),
                seconds=float(np.mean([fit.seconds for fit in own])),
                peak_bytes=float(np.mean([fit.peak_bytes for fit in own])),
                parameters=first.parameters,
                state_bytes=first.state_bytes,
                lr=first.lr,
                steps=first.steps,
                tokens=first.tokens,
                curve=first.curve,
                examples=first.examples,
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
    """The weights' name without its folders."""
    return recipe.weights.rpartition("/")[2]

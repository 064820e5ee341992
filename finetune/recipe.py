"""The schema of a run's settings, for TOML files, ``--set`` and the saved recipe.json.

This module defines the sections that every run has. Each task and comparison defines its own section in its
``settings.py``, and declares there which shared fields it reads.
"""

import re
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, field_validator

from finetune.comparisons import COMPARISONS
from finetune.config import Settings, nearest
from finetune.errors import RecipeError
from finetune.tasks import TASKS

FEATURES = "features"
FSDP = "fsdp"
FEATURES_READ = ("method", "micro_batch_tokens", "class_weights", "metric", "precision", "seed", "threads")
MICRO_BATCH_TOKENS = 4096
AIMS = ("half", "max-f1", "cost")
AIMS_AT_A_SHARE = ("recall-at-fpr", "precision", "abstain")


class Columns(Settings):
    """The columns of a table."""

    text: str | None = Field(
        None,
        description="name of the text column, or several separated by commas, which are joined; by default inferred from "
        "names or content",
    )
    label: str | None = Field(None, description="name of the label column; by default inferred from names or content")
    group: str | None = Field(None, description="column of group ids; rows with the same id go into the same split")
    split: str | None = Field(None, description="name of a column with train, val or test for each row")
    time: str | None = Field(None, description="name of a column of dates or numbers, for split.protocol = time")
    white_space: Literal["keep", "fold"] = Field(
        "keep",
        description="keep: texts as they are; fold: strip leading and trailing whitespace and invisible characters, and "
        "collapse each run of whitespace to one space, in training and in prediction",
    )


class Split(Settings):
    """How rows are divided into train, validation and test."""

    protocol: Literal["grouped", "balanced", "ordered", "time"] = Field(
        "grouped",
        description="grouped: all rows, stratified; rows with the same normalised text go into the same split; "
        "balanced: equally many rows of each class, drawn at random; "
        "ordered: in file order, first the training rows, then the test rows, then the validation rows; "
        "time: by columns.time, the oldest rows for training, the newest for the test",
    )
    val_fraction: float = Field(0.1, gt=0, lt=1, description="fraction of rows for the validation set")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="fraction of rows for the test set")
    seed: int = Field(123, ge=0, description="seed of the split")


class Train(Settings):
    """Which weights are trained, for how long, and how."""

    method: Literal["auto", "full", "last-blocks", "head", "features", "lora"] = Field(
        "auto",
        description="which weights are trained: full: all; last-blocks: the last blocks and the head; head: only the head; "
        "features: only the head of a classifier, by logistic regression on the states of one pass; "
        "lora: low-rank adapters and the head; auto: chosen by weights, rows and machine",
    )
    last_blocks: int = Field(2, ge=1, description="number of last blocks that method last-blocks trains")
    lora_rank: int = Field(8, ge=1, description="rank of an adapter's update")
    lora_alpha: float = Field(16.0, gt=0, description="scale of the update: alpha / rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on an adapter's input")
    lora_targets: tuple[str, ...] = Field(
        ("attention.qkv", "attention.out", "mlp.up", "mlp.down"),
        min_length=1,
        description="layers that get an adapter, by name or name suffix; * matches any characters",
    )
    epochs: int | None = Field(
        None, ge=1, description="passes over the training rows; the default depends on the weights"
    )
    max_steps: int | None = Field(None, ge=1, description="maximum number of optimizer steps; by default unlimited")
    batch_size: int = Field(16, ge=1, description="rows per optimizer step, over all processes")
    micro_batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        MICRO_BATCH_TOKENS,
        description="tokens per forward pass, including padding; a step with more tokens accumulates gradients; auto: as "
        "many as fit in memory, tried before a run's first step in one process",
    )
    lr: float | None = Field(None, gt=0, description="peak learning rate; the default depends on weights and method")
    min_lr_fraction: float = Field(0.1, ge=0, le=1, description="final learning rate, as a fraction of the peak")
    warmup_fraction: float = Field(0.1, ge=0, le=1, description="fraction of the steps used for warmup")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine",
        description="the learning rate after the warmup: cosine: decays along half a cosine to its final value; constant: "
        "stays at the peak until the final decay (decay_fraction), so that training can stop or continue at any step",
    )
    decay_fraction: float = Field(
        0.0, ge=0, le=1, description="under schedule constant, the final fraction of the steps, in which the rate falls"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw: AdamW for all weights; muon: Muon for the blocks' matrices and AdamW for the rest; meant "
        "for new weights",
    )
    weight_decay: float = Field(
        0.1, ge=0, description="decoupled weight decay of matrices; norms and biases are not decayed"
    )
    beta_1: float = Field(0.9, ge=0, lt=1, description="decay rate of AdamW's first moment estimate")
    beta_2: float = Field(0.99, ge=0, lt=1, description="decay rate of AdamW's second moment estimate")
    clip_norm: float = Field(1.0, gt=0, description="maximum global gradient norm")
    keep_states: bool = Field(
        True,
        description="run a classifier's frozen blocks once per text and keep their output, for training and evaluation, "
        "where that is exact and fits in memory; false: run them in every step",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in embeddings, attention and blocks")
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="none: every row has the same weight in the loss; balanced: every class has the same total weight",
    )
    metric: Literal["f1_macro", "accuracy", "log_loss"] = Field(
        "f1_macro",
        description="validation metric that selects the best checkpoint; between equals, the lower log loss decides",
    )
    evaluations_per_epoch: int = Field(1, ge=1, description="validations and checkpoints per epoch")
    patience: int = Field(4, ge=1, description="validations without improvement before training stops")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="fp32: 32-bit floats; bf16: autocast; fp16: autocast with loss scaling, for GPUs without bf16; auto: "
        "bf16 where this machine computes it faster, else fp32",
    )
    tf32: bool = Field(
        False, description="let an NVIDIA GPU round the inputs of fp32 matrix products to TF32, in training only"
    )
    step: Literal["auto", "eager", "captured", "compiled"] = Field(
        "auto",
        description="how an optimizer step runs: eager: operation by operation; captured: as one CUDA graph; compiled: "
        "with torch.compile; auto: on a GPU, whichever the first steps show to be fastest, elsewhere eager",
    )
    tracker: Literal["off", "tensorboard", "trackio"] = Field(
        "off",
        description="a tracker that also receives the losses and validation metrics; tensorboard: files in the run's "
        "directory tracker/; trackio: trackio's local database; no text is sent",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="how several processes share the model; ddp: each holds all of it; fsdp: each holds a part of every weight, "
        "gradient and moment (FSDP2), for models that do not fit on one GPU",
    )
    checkpoint_blocks: bool = Field(
        False,
        description="activation checkpointing: keep only each block's input, and run the block again in the backward pass; "
        "less memory, about a third more time",
    )
    seed: int = Field(123, ge=0, description="seed of the head, the data order and dropout")
    threads: int = Field(
        0, ge=0, description="CPU threads; 0: all cores. Results are bit-identical only for the same number"
    )

    @property
    def tokens_per_pass(self) -> int:
        """The tokens of a forward pass; the default where `auto` has not been tried."""
        return MICRO_BATCH_TOKENS if self.micro_batch_tokens == "auto" else self.micro_batch_tokens

    @property
    def chosen_lr(self) -> float:
        """The learning rate; it must have been chosen already."""
        assert self.lr is not None, "the learning rate is not chosen yet"
        return self.lr

    @property
    def chosen_epochs(self) -> int:
        """The epochs; they must have been chosen already."""
        assert self.epochs is not None, "the epochs are not chosen yet"
        return self.epochs


class Evaluate(Settings):
    """Evaluation metrics and decision rule."""

    metric: Literal["auto", "accuracy", "f1", "f1_macro", "f1_micro", "subset_accuracy"] | None = Field(
        None,
        description="the main metric; by default accuracy, or f1_micro with classify.labels = many; auto: f1 for two "
        "classes, else the default; f1 is that of the positive class and needs two classes",
    )
    positive: str | None = Field(
        None, description="the positive class, if there are two; by default the last label in sorted order"
    )
    aim: str | None = Field(
        None,
        description="the goal of the decision rule, which is chosen on the validation rows; half: the most "
        "probable label; max-f1; cost: the least expected cost (see costs); recall-at-fpr:X: the highest recall of the positive "
        "label with a false positive rate of at most X; precision:X: the highest recall of the positive label with a precision "
        "of at least X; abstain:X: no decision on rows that are too uncertain for an error rate of at most X; by default half, "
        "or max-f1 with classify.labels = many",
    )
    costs: tuple[tuple[float, ...], ...] | None = Field(
        None,
        description="for aim = cost: a row for each true label and a column for each predicted label, in sorted order, 0 on "
        "the diagonal and above 0 elsewhere; [[0, 10], [1, 0]]: a ham called spam costs as much as ten spam called ham",
    )
    seeds: int = Field(
        1,
        ge=1,
        le=100,
        description="number of trainings, with the seeds from train.seed upwards, each measured on the test rows",
    )
    slice_by: str | None = Field(
        None,
        description="a column of pairs, or a field of instruction records, such as a source: each of its values is a slice "
        "of the test rows",
    )
    choose: Literal["model", "best"] = Field(
        "model",
        description="what the bundle contains; model: the model; best: the model, TF-IDF or the average of their "
        "log-probabilities, whichever has the "
        "highest headline metric on the validation rows",
    )
    resamples: int = Field(1000, ge=100, description="bootstrap resamples per interval")

    @field_validator("aim")
    @classmethod
    def _is_an_aim(cls, aim: str | None) -> str | None:
        word, colon, number = (aim or "half").partition(":")
        share = re.fullmatch(r"0?\.\d+", number) and float(number) > 0
        if (word in AIMS and not colon) or (word in AIMS_AT_A_SHARE and share):
            return aim
        known = ", ".join([*AIMS, *(f"{name}:X" for name in AIMS_AT_A_SHARE)])
        raise ValueError(f"no aim {aim!r}; known: {known}, with X between 0 and 1, such as precision:0.95")

    @field_validator("costs")
    @classmethod
    def _is_a_matrix(cls, costs: tuple[tuple[float, ...], ...] | None) -> tuple[tuple[float, ...], ...] | None:
        for at, row in enumerate(costs or ()):
            if len(row) != len(costs or ()) or row[at] != 0 or any(cost <= 0 for cost in (*row[:at], *row[at + 1 :])):
                raise ValueError("a square of numbers, 0 on the diagonal and above 0 elsewhere")
        return costs


class Report(Settings):
    """What the report of a run shows."""

    texts: bool = Field(
        True,
        description="show texts of the data, such as errors and samples; false: leave all of them out, for sharing",
    )


class Shape(Settings):
    """The shape of new weights (weights = "scratch"); the preset decides what is not set."""

    preset: Literal["gpt2", "llama", "vanilla"] = Field(
        "gpt2",
        description="gpt2: a small GPT-2; llama: with rotary positions, RMS norm, SwiGLU, an untied output matrix and no "
        "biases; vanilla: the encoder-decoder of Vaswani et al. 2017, for seq2seq: post-norm, sinusoidal positions, ReLU, "
        "width 512, 8 heads, 6 + 6 layers and a vocabulary of 5,000",
    )
    layers: int | None = Field(
        None, ge=1, le=256, description="transformer blocks (per stack in an encoder-decoder); by default 6"
    )
    width: int | None = Field(
        None, ge=1, le=1 << 14, description="size of the residual stream; by default 256, in vanilla 512"
    )
    heads: int | None = Field(None, ge=1, le=256, description="attention heads of a block; by default 4, in vanilla 8")
    context: int | None = Field(
        None, ge=2, le=1 << 17, description="maximum input length in tokens; by default 256, in vanilla 512"
    )
    tokenizer: str = Field(
        "",
        description="directory with vocab.json and merges.txt; by default the 256 bytes, in vanilla a vocabulary "
        "learned from the training pairs",
    )
    positions: Literal["learned", "sinusoidal", "rotary", "alibi"] | None = Field(
        None, description="position encoding; by default learned"
    )
    kv_heads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="key/value heads, shared by groups of heads (1: multi-query); by default as many as heads",
    )
    norm: Literal["pre", "post", "rms"] | None = Field(
        None, description="pre: layer norm before attention and MLP; post: after them; rms: RMS norm before them"
    )
    activation: Literal["gelu", "relu", "swiglu"] | None = Field(None, description="the MLP's activation")
    tied: bool | None = Field(None, description="tie the output matrix to the token embedding")
    biases: bool | None = Field(None, description="biases in the linear layers")
    attention: Literal["full", "local", "strided"] = Field(
        "full",
        description="full: a token attends to all tokens before it; local: only to those in its window; strided: also to "
        "those at every multiple of the window before it",
    )
    window: int = Field(
        128, ge=1, le=1 << 17, description="window of local and strided attention in tokens, including the token itself"
    )
    shared_blocks: bool = Field(False, description="all layers use the weights of one block")


class RunSettings(Settings):
    """Settings of every run."""

    pipeline: str = Field("", description="the pipeline whose stages run")
    task: str = Field("classify", description="the task: " + ", ".join(TASKS))
    weights: str = Field(
        "auto",
        description="a registry name, a directory, a hub id, or auto: GPT-2 124M if it is cached or can be downloaded, else "
        "the bundled fallback; scratch: randomly initialised weights with the architecture given by shape.*",
    )
    data: str = Field(
        "",
        description="a registry name or a path; depending on the task, a labelled table, a text or a folder of texts, a file "
        "of instruction records, or a table of pairs",
    )
    validation: str = Field("", description="a separate table for validation; by default split off from data")
    test: str = Field("", description="a separate table for testing; by default split off from data")
    encoding: str | None = Field(
        None,
        description="encoding of tables that are neither UTF-8 nor marked with a BOM; "
        "by default such a table is an error",
    )
    ignore: tuple[str, ...] = Field((), description="codes of findings in labelled tables to ignore, for example FT012")
    max_length: int | None = Field(
        None, ge=1, description="maximum tokens per text; longer texts are truncated; by default the model's context"
    )
    columns: Columns = Columns()
    split: Split = Split()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    shape: Shape = Shape()

    @field_validator("task")
    @classmethod
    def _is_listed(cls, name: str) -> str:
        if name not in TASKS:
            raise ValueError(
                " ".join(filter(None, (f"no task {name!r}; known: {', '.join(TASKS)}", nearest(name, TASKS))))
            )
        return name


def task_settings(name: str) -> ModuleType:
    """A task's ``settings.py``: SECTION, the class of its section or None, and READS, the fields it reads per stage."""
    return import_module(f"finetune.tasks.{name}.settings")


def comparison_settings(name: str) -> ModuleType:
    """A comparison's ``settings.py``: SECTION, the class of its section; its ``stage.py`` declares what it reads."""
    return import_module(f"finetune.comparisons.{name}.settings")


def _sections() -> dict[str, Any]:
    """The sections of tasks and comparisons, each with its defaults."""
    owners = {name: task_settings(name) for name in TASKS} | {name: comparison_settings(name) for name in COMPARISONS}
    return {name: (owner.SECTION, owner.SECTION()) for name, owner in owners.items() if owner.SECTION is not None}


if TYPE_CHECKING:

    class Recipe(RunSettings):
        """All settings of a run."""

        def __getattr__(self, section: str) -> Any: ...
else:
    Recipe = create_model(
        "Recipe", __base__=RunSettings, __module__=__name__, __doc__="All settings of a run.", **_sections()
    )


def check_shape(recipe: "Recipe") -> None:
    """Raise RecipeError if the shape was changed but the weights are not new."""
    changed = [name for name in Shape.model_fields if getattr(recipe.shape, name) != getattr(Shape(), name)]
    if changed and recipe.weights != "scratch":
        raise RecipeError(
            f"shape.{changed[0]} is used only with weights=scratch",
            got=f"weights={recipe.weights}",
            do="Leave it out, or give --set weights=scratch.",
        )
    if recipe.shape.window != Shape().window and recipe.shape.attention == "full":
        raise RecipeError(
            "shape.window is used only with shape.attention=local or strided",
            got=f"shape.attention={recipe.shape.attention}",
            do="Leave it out, or give --set shape.attention=local.",
        )


def features_unread() -> list[str]:
    """The settings of a training that the method features does not use."""
    return [name for name in Train.model_fields if name not in FEATURES_READ]


def check_method(train: Train) -> None:
    """Raise RecipeError if a changed setting is not used by the method or the schedule."""
    needs = {"decay_fraction": ("schedule", ("constant",)), "last_blocks": ("method", ("auto", "last-blocks"))}
    needs |= {name: ("method", ("auto", "lora")) for name in Train.model_fields if name.startswith("lora_")}
    for name in features_unread() if train.method == FEATURES else ():
        if getattr(train, name) != Train.model_fields[name].default:
            raise RecipeError(
                f"train.{name} is not used by method features",
                got=str(getattr(train, name)),
                do="Leave it out, or choose another train.method.",
            )
    for name, (key, values) in needs.items():
        if getattr(train, name) != Train.model_fields[name].default and getattr(train, key) not in values:
            raise RecipeError(
                f"train.{name} is used only by {key} {values[-1]}",
                got=f"{key} {getattr(train, key)}",
                do=f"Leave it out, or give --set train.{key}={values[-1]}.",
            )

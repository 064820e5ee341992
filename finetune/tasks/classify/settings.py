"""The section ``classify`` of a recipe, and the shared settings that the task reads in each stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Classify(Settings):
    """How labels are read, corrected and searched for errors, and how long texts are read."""

    labels: Literal["one", "many"] | None = Field(
        None,
        description="labels per row; one: the cell is the label; many: the cell holds any number of labels, separated by ; "
        "or | or a comma, or as a list, or each label has its own column of 0 and 1; by default one, and cells that look "
        "like several labels are an error",
    )
    long_texts: Literal["cut", "head-tail", "windows"] = Field(
        "cut",
        description="how texts longer than max_length tokens are read; cut: only the beginning; head-tail: a quarter of "
        "max_length from the beginning, the rest from the end; windows: all of it, in windows that overlap by a quarter; "
        "training gives each window the row's label, and prediction averages the windows' log-probabilities",
    )
    fixes: tuple[str, ...] = Field(
        (),
        description="tables with the columns row and label or drop that correct the labels of training and validation rows; "
        "finetune labels RUN --apply sets it",
    )
    audit: Literal["auto", "on", "off"] = Field(
        "auto",
        description="search for wrong labels; auto: by words, and by hidden states where that costs little compared to the "
        "training; on: by both; off: not at all",
    )


SECTION = Classify
TABLES = ("validation", "test", "encoding", "columns")
READ = ("classify.labels", "classify.long_texts")
ROWS = (*READ, "classify.fixes")
READS = {
    "download": (*TABLES, *ROWS),
    "prepare": (*TABLES, *ROWS, "ignore", "split", "max_length"),
    "train": ("train.class_weights", *READ),
    "evaluate": ("evaluate", "columns.group", "columns.white_space", *READ),
    "audit": ("classify", "ignore"),
}

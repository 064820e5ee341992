"""The section ``classify`` of a recipe, and the shared settings that the task reads in each stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Classify(Settings):
    """How labels are read, corrected and searched for errors, and how long texts are read."""

    labels: Literal["one", "many"] | None = Field(
        None,
        description="labels of a row; one: its cell is a label; many: its cell holds any number of them, joined with ; or "
        "| or a comma or in a list, or each label has a column of 0 and 1; by default one, and cells that look like "
        "several labels stop the run",
    )
    long_texts: Literal["cut", "head-tail", "windows"] = Field(
        "cut",
        description="what is read of a text with more than max_length tokens; cut: its beginning; head-tail: the first "
        "quarter of max_length and three quarters from its end; windows: all of it, in windows that share a quarter with "
        "the next, each trained on with the row's label; their averaged log-probabilities decide",
    )
    fixes: tuple[str, ...] = Field(
        (),
        description="tables with the columns row and label or drop that correct the labels of training and validation rows; "
        "finetune labels RUN --apply sets it",
    )
    audit: Literal["auto", "on", "off"] = Field(
        "auto",
        description="search for labels that may be wrong; auto: by words, and by hidden states where reading all texts "
        "again is little beside the training; on: by both",
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

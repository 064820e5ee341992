"""The section ``classify`` of a recipe, and what the task reads of the run's sections, by stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Classify(Settings):
    """What a row's label is."""

    labels: Literal["one", "many"] | None = Field(
        None,
        description="labels of a row; one: its cell is a label; many: its cell holds any number of them, joined with ; or "
        "| or a comma or in a list, or each label has a column of 0 and 1; by default one, and cells that look like "
        "several labels stop the run",
    )


SECTION = Classify
TABLES = ("validation", "test", "encoding", "columns")
READS = {
    "download": (*TABLES, "classify"),
    "prepare": (*TABLES, "classify", "ignore", "split", "max_length"),
    "train": ("train.class_weights", "classify"),
    "evaluate": ("evaluate", "classify"),
}

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
    fixes: tuple[str, ...] = Field(
        (),
        description="tables with the columns row and label or drop that correct the labels of training and validation rows; "
        "finetune labels RUN --apply sets it",
    )
    audit: Literal["auto", "on", "off"] = Field(
        "auto",
        description="search for labels that may be wrong; auto: where it takes less than a tenth of the run's time",
    )


SECTION = Classify
TABLES = ("validation", "test", "encoding", "columns")
ROWS = ("classify.labels", "classify.fixes")
READS = {
    "download": (*TABLES, *ROWS),
    "prepare": (*TABLES, *ROWS, "ignore", "split", "max_length"),
    "train": ("train.class_weights", "classify.labels"),
    "evaluate": ("evaluate", "classify.labels"),
    "audit": ("classify", "ignore"),
}

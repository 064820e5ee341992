"""The section ``tag`` of a recipe, and the shared settings that the task reads in each stage."""

from pydantic import Field

from finetune.config import Settings


class Tag(Settings):
    """Where words and tags stand in a table; a CoNLL file has its words first and its tags last."""

    words: str | None = Field(None, description="name of the column of words; by default recognised by its name")
    tags: str | None = Field(None, description="name of the column of tags; by default recognised by its name")
    sentence: str | None = Field(
        None,
        description="for tables with one word per row: the column with the sentence's id; by default recognised by its name",
    )


SECTION = Tag
TABLES = ("validation", "test", "encoding", "tag")
READS = {
    "download": TABLES,
    "prepare": (*TABLES, "split", "max_length"),
    "evaluate": ("evaluate.metric", "evaluate.resamples"),
}

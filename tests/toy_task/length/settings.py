"""The section ``length`` of a recipe, and what the task reads of the run's sections, by stage."""

from pydantic import Field

from finetune.config import Settings


class Length(Settings):
    """What a long text is."""

    long: int = Field(20, ge=1, description="characters from which a text is long")


SECTION = Length
READS = {"prepare": ("length", "split.seed")}

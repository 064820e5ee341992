"""The section ``methods`` of a recipe."""

from pydantic import Field

from finetune.config import Settings


class Methods(Settings):
    """The methods and seeds to compare."""

    candidates: tuple[str, ...] = Field(
        ("head", "features", "last-block", "last-two-blocks", "full", "lora", "full-random", "first-token", "padded"),
        min_length=1,
        description="fine-tuning methods to compare, each trained with every seed on the same split",
    )
    seeds: int = Field(3, ge=1, description="number of seeds per method, starting at train.seed")


SECTION = Methods

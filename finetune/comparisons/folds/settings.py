"""The section ``folds`` of a recipe."""

from pydantic import Field

from finetune.config import Settings


class Folds(Settings):
    """How often a cross-validation trains."""

    count: int = Field(5, ge=2, description="number of folds; each is the test set of one training on the others")


SECTION = Folds

"""The section ``folds`` of a recipe."""

from pydantic import Field

from finetune.config import Settings


class Folds(Settings):
    """The number of trainings of a cross-validation."""

    count: int = Field(
        5, ge=2, description="number of folds; each is once the test set of a model trained on the others"
    )


SECTION = Folds

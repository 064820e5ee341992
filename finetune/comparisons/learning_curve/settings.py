"""The section ``learning_curve`` of a recipe."""

from pydantic import Field, field_validator

from finetune.config import Settings


class LearningCurve(Settings):
    """On how many rows a learning curve trains, and how often."""

    shares: tuple[float, ...] = Field(
        (0.1, 0.25, 0.5, 1.0), min_length=2, description="shares of the training rows, in rising order"
    )
    seeds: int = Field(
        3,
        ge=1,
        description="trainings per share, each on a new sample of the rows; at most 1 / share of them: two at 0.5, one at 1",
    )

    @field_validator("shares")
    @classmethod
    def _rise(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share <= 1 for share in shares) or list(shares) != sorted(set(shares)):
            raise ValueError("rising numbers above 0 and up to 1")
        return shares


SECTION = LearningCurve

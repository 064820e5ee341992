"""The section ``architectures`` of a recipe."""

from pydantic import Field

from finetune.config import Settings


class Architectures(Settings):
    """The trainings to compare, and their lengths."""

    trainings: tuple[str, ...] = Field(
        (
            "classify-encoder-random",
            "classify-decoder-random",
            "classify-both-random",
            "classify-encoder-pretrained",
            "classify-encoder-masked",
            "classify-decoder-pretrained",
            "classify-both-pretrained",
            "classify-both-whole",
            "numbers-decoder-random",
            "numbers-both-random",
            "numbers-decoder-pretrained",
            "numbers-both-pretrained",
            "text-encoder-random",
            "text-decoder-random",
            "text-both-random",
            "text-encoder-pretrained",
            "text-decoder-pretrained",
            "text-both-pretrained",
        ),
        min_length=1,
        description="trainings to compare, as TASK-ARCHITECTURE-START, each with every seed; both: encoder-decoder; whole: with "
        "all pretrained blocks on each side; masked: starts from the result of text-encoder-pretrained",
    )
    seeds: int = Field(2, ge=1, description="number of seeds per training, starting at train.seed")
    classify_steps: int = Field(150, ge=1, description="optimizer steps of each classifier")
    numbers_steps: int = Field(600, ge=1, description="optimizer steps of each model that writes numbers in words")
    text_steps: int = Field(100, ge=1, description="optimizer steps of each model that reads the bundled text")
    number_limit: int = Field(10_000, ge=100, le=1_000_000, description="numbers are drawn from 0 up to this limit")
    test_numbers: int = Field(300, ge=10, description="held-out numbers to test exact match")
    piece_tokens: int = Field(
        32, ge=2, description="tokens of running text given as source; the model then predicts as many tokens"
    )


SECTION = Architectures

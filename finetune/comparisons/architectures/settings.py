"""The section ``architectures`` of a recipe."""

from pydantic import Field

from finetune.config import Settings


class Architectures(Settings):
    """What a comparison of architectures trains, and for how long."""

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
        description="what is trained, as TASK-ARCHITECTURE-START, each under every seed; both is an encoder-decoder, "
        "whole one with all pretrained blocks on each side, masked an encoder after text-encoder-pretrained",
    )
    seeds: int = Field(2, ge=1, description="number of seeds per training, starting at train.seed")
    classify_steps: int = Field(150, ge=1, description="optimizer steps of each classifier")
    numbers_steps: int = Field(600, ge=1, description="optimizer steps of each model that writes numbers in words")
    text_steps: int = Field(100, ge=1, description="optimizer steps of each model that reads the bundled text")
    number_limit: int = Field(10_000, ge=100, le=1_000_000, description="numbers are drawn from 0 up to this one")
    test_numbers: int = Field(300, ge=10, description="held-out numbers, for exact match")
    piece_tokens: int = Field(
        32, ge=2, description="tokens of running text given as source; the same number is predicted"
    )


SECTION = Architectures

"""The section ``instruct`` of a recipe, and the shared settings that the task reads in each stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Instruct(Settings):
    """How instruction records become prompts and answers."""

    style: Literal["alpaca", "chat", "plain"] = Field(
        "alpaca",
        description="the prompt format: alpaca: that of Stanford Alpaca; chat: turns marked User: and Assistant:, also for "
        "several turns and a system message; plain: the instruction and its input on separate lines",
    )
    template: str = Field(
        "",
        description="a custom prompt that replaces the style: a text with {instruction} and {input}; the answer follows it",
    )
    loss_on: Literal["answer", "all"] = Field(
        "answer", description="tokens in the loss: answer: the answers and their end tokens; all: the prompts too"
    )
    malformed_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the records that may be malformed; these are left out and counted; a larger share is an error",
    )
    max_new_tokens: int = Field(64, ge=1, description="maximum tokens of an answer in the evaluation")


SECTION = Instruct
RECORDS = ("instruct.style", "instruct.template", "instruct.malformed_fraction")
READS = {
    "download": (*RECORDS, "evaluate.slice_by"),
    "prepare": ("split", "max_length", "instruct"),
    "train": ("instruct.loss_on",),
    "evaluate": (
        "instruct.style",
        "instruct.template",
        "instruct.loss_on",
        "instruct.max_new_tokens",
        "evaluate.slice_by",
    ),
}

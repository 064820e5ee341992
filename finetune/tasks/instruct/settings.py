"""The section ``instruct`` of a recipe, and what the task reads of the run's sections, by stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Instruct(Settings):
    """How instruction records become prompts and answers."""

    style: Literal["alpaca", "chat", "plain"] = Field(
        "alpaca",
        description="the words around an instruction: those of Stanford Alpaca; chat: User: and Assistant:, "
        "also for several turns and a system message; plain: the instruction and its input, a line each",
    )
    template: str = Field(
        "",
        description="an own prompt in the style's place: text with {instruction} and {input}, which the answer follows",
    )
    loss_on: Literal["answer", "all"] = Field(
        "answer", description="tokens that are learnt: the answers and their ends, or those of the prompts too"
    )
    malformed_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the records that may be malformed; they "
        "are left out and counted, and more of them are an error that lists some",
    )
    max_new_tokens: int = Field(64, ge=1, description="tokens of an answer at most where answers are scored")


SECTION = Instruct
RECORDS = ("instruct.style", "instruct.template", "instruct.malformed_fraction")
READS = {
    "download": RECORDS,
    "prepare": ("split", "max_length", "instruct"),
    "train": ("instruct.loss_on",),
    "evaluate": ("instruct.style", "instruct.template", "instruct.loss_on", "instruct.max_new_tokens"),
}

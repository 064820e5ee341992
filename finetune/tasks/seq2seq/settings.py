"""The section ``seq2seq`` of a recipe, and what the task reads of the run's sections, by stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Seq2Seq(Settings):
    """How sources become targets."""

    family: Literal["decoder", "encoder-decoder"] = Field(
        "encoder-decoder",
        description="decoder: one GPT reads source, separator and target in a row; encoder-decoder: "
        "the source is read both ways by an encoder; both sides begin with a GPT's weights, or with scratch are drawn "
        "independently",
    )
    source: str | None = Field(None, description="name of the source column; none: found by its name")
    target: str | None = Field(None, description="name of the target column; none: found by its name")
    zero_init_cross_attention: bool = Field(
        True,
        description="begin with the cross-attention's output at zero, so that the decoder is the GPT until it "
        "learns to look at its source; else drawn as other fresh weights",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the answer that is spread over all tokens")
    max_new_tokens: int = Field(64, ge=1, description="tokens of a target at most where targets are written")
    beams: int = Field(1, ge=1, description="beam search with so many beams in the evaluation; 1: greedy")
    length_penalty: float = Field(
        1.0, description="of beams: their log probability is divided by their length to this power"
    )


SECTION = Seq2Seq
TABLES = ("validation", "test", "encoding", "seq2seq.source", "seq2seq.target")
MODEL = ("seq2seq.family", "seq2seq.zero_init_cross_attention", "seq2seq.label_smoothing")
WRITING = ("seq2seq.max_new_tokens", "seq2seq.beams", "seq2seq.length_penalty")
READS = {
    "download": TABLES,
    "verify": (*TABLES, "split", "seq2seq.family"),  # of new weights: their architecture and their vocabulary
    "prepare": (*TABLES, "split", "max_length", "seq2seq.family", "seq2seq.max_new_tokens"),
    "train": MODEL,
    "evaluate": (*MODEL, *WRITING),
    "export": WRITING,
}

"""The section ``seq2seq`` of a recipe, and the shared settings that the task reads in each stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Seq2Seq(Settings):
    """How sources become targets."""

    family: Literal["decoder", "encoder-decoder"] = Field(
        "encoder-decoder",
        description="decoder: one decoder reads source, separator and target as one sequence; encoder-decoder: a "
        "bidirectional encoder reads the source; encoder and decoder both start from a GPT's weights, or with scratch are "
        "initialised randomly and independently",
    )
    source: str | None = Field(None, description="name of the source column; by default recognised by its name")
    target: str | None = Field(None, description="name of the target column; by default recognised by its name")
    zero_init_cross_attention: bool = Field(
        True,
        description="yes: initialise the cross-attention's output to zero, so that the decoder starts out identical to the GPT; "
        "no: random, like other new weights",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing: probability spread evenly over all tokens"
    )
    max_new_tokens: int = Field(64, ge=1, description="maximum tokens of a generated target")
    beams: int = Field(1, ge=1, description="number of beams in the evaluation; 1: greedy decoding")
    length_penalty: float = Field(
        1.0, description="for beam search: log probabilities are divided by the length raised to this power"
    )


SECTION = Seq2Seq
TABLES = ("validation", "test", "encoding", "seq2seq.source", "seq2seq.target")
MODEL = ("seq2seq.family", "seq2seq.zero_init_cross_attention", "seq2seq.label_smoothing")
WRITING = ("seq2seq.max_new_tokens", "seq2seq.beams", "seq2seq.length_penalty")
READS = {
    "download": (*TABLES, "evaluate.slice_by"),
    "verify": (*TABLES, "split", "seq2seq.family"),  # for new weights: their architecture and their vocabulary
    "prepare": (*TABLES, "split", "max_length", "seq2seq.family", "seq2seq.max_new_tokens"),
    "train": MODEL,
    "evaluate": (*MODEL, *WRITING, "evaluate.slice_by"),
    "export": WRITING,
}

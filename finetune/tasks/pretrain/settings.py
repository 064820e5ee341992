"""The section ``pretrain`` of a recipe, and the shared settings that the task reads in each stage."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings


class Pretrain(Settings):
    """How plain text becomes training sequences."""

    objective: Literal["next-token", "masked"] = Field(
        "next-token",
        description="next-token: a GPT predicts each token from those before it; "
        "masked: an encoder with bidirectional attention predicts masked tokens, 15 % of all (BERT), for "
        "classify and tag",
    )
    val_fraction: float = Field(0.02, gt=0, lt=1, description="share of documents held out")
    val_blocks: int = Field(256, ge=1, description="blocks of held-out text per validation during training")
    eval_data: str = Field("", description="another held-out text, evaluated before and after training")
    exclude: tuple[str, ...] = Field(
        (),
        description="files or folders of evaluation texts, for decontamination: a training document is dropped if it contains at "
        "least half of the 8-word n-grams of any of their rows, or a row shorter than 8 words as a whole line",
    )
    across_documents: bool = Field(
        False, description="let tokens attend to earlier documents packed into the same sequence"
    )
    packed_attention: Literal["auto", "masked", "varlen"] = Field(
        "auto",
        description="how training keeps attention within a document: masked: with an attention mask; varlen: document by "
        "document, without computing what the mask would hide (on a GPU with PyTorch's variable-length attention, in bf16); "
        "auto: varlen where that is possible on an NVIDIA GPU, or on a CPU without train.step = compiled",
    )
    shares: dict[str, float] = Field(
        {},
        description="how often the documents of a source file are used, by the file's name without its "
        "extension: 0.2 for a fifth, "
        "2 for twice; 1 for files that are not named",
    )
    stream: bool = Field(
        False,
        description="read the text as a stream, for more of it than the disk holds: files, also .parquet and compressed ones, "
        "a URL, or hf:OWNER/NAME; it is tokenized into shards, and a deleted shard is made again when needed",
    )
    shard_tokens: int = Field(
        1 << 24, ge=64, description="tokens per shard, best a multiple of the context; each batch comes from one shard"
    )
    disk_megabytes: float = Field(1000.0, gt=0, description="maximum disk space for shards, in millions of bytes")
    stream_tokens: int | None = Field(
        None, ge=2, description="number of training tokens to read from the stream; by default all of it"
    )
    val_tokens: int = Field(1 << 18, ge=2, description="maximum number of held-out tokens kept from a stream")


SECTION = Pretrain
STREAM = tuple(f"pretrain.{name}" for name in ("shard_tokens", "disk_megabytes", "stream_tokens", "val_tokens"))
TEXT = ("pretrain.val_fraction", "pretrain.eval_data", "pretrain.shares", "pretrain.exclude")
OBJECTIVE = "pretrain.objective"
BLOCKS = ("max_length", "pretrain.across_documents", OBJECTIVE)
READS = {
    "download": ("pretrain.eval_data", "pretrain.exclude", "pretrain.stream"),
    "verify": (OBJECTIVE,),  # for new weights: their architecture and their vocabulary
    "prepare": (*TEXT, OBJECTIVE, "split.seed", "pretrain.stream", *STREAM),
    "train": (
        *BLOCKS,
        "pretrain.val_blocks",
        "pretrain.packed_attention",
        "pretrain.stream",
        "pretrain.disk_megabytes",
    ),
    "evaluate": BLOCKS,
}

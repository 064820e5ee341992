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
    shares: dict[str, float] = Field(
        {},
        description="how often the documents of a source file are used, by the file's name without its "
        "extension: 0.2 for a fifth, "
        "2 for twice; 1 for files that are not named",
    )


SECTION = Pretrain
TEXT = ("pretrain.val_fraction", "pretrain.eval_data", "pretrain.shares", "pretrain.exclude")
OBJECTIVE = "pretrain.objective"
BLOCKS = ("max_length", "pretrain.across_documents", OBJECTIVE)
READS = {
    "download": ("pretrain.eval_data", "pretrain.exclude"),
    "verify": (OBJECTIVE,),  # of new weights: their architecture and their vocabulary
    "prepare": (*TEXT, OBJECTIVE, "split.seed"),
    "train": (*BLOCKS, "pretrain.val_blocks"),
    "evaluate": BLOCKS,
}

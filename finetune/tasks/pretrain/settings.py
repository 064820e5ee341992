"""The section ``pretrain`` of a recipe, and what the task reads of the run's sections, by stage."""

from pydantic import Field

from finetune.config import Settings


class Pretrain(Settings):
    """How plain text becomes sequences."""

    val_fraction: float = Field(0.02, gt=0, lt=1, description="share of documents held out")
    val_blocks: int = Field(256, ge=1, description="blocks of held-out text that a validation during training reads")
    eval_data: str = Field("", description="another held-out text, evaluated before and after training")
    exclude: tuple[str, ...] = Field(
        (),
        description="files, or folders of them, with the rows of evaluation sets: a "
        "document that holds half or more of a row's 8-grams of words is left out, or a "
        "shorter row as a line",
    )
    across_documents: bool = Field(False, description="let attention cross from one packed document into the next")
    shares: dict[str, float] = Field(
        {},
        description="how often the documents of a file (its name without ending) "
        "are used: 0.2 for a fifth of them, 2 for twice; 1 where not named",
    )


SECTION = Pretrain
TEXT = ("pretrain.val_fraction", "pretrain.eval_data", "pretrain.shares", "pretrain.exclude")
BLOCKS = ("max_length", "pretrain.across_documents")
READS = {
    "download": ("pretrain.eval_data", "pretrain.exclude"),
    "prepare": (*TEXT, "split.seed"),
    "train": (*BLOCKS, "pretrain.val_blocks"),
    "evaluate": BLOCKS,
}

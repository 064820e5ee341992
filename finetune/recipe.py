"""The one schema of a run's settings: TOML files, ``--set`` and the saved recipe.json."""

from typing import Literal

from pydantic import Field

from finetune.config import Settings
from finetune.errors import RecipeError


class Columns(Settings):
    """Which columns of a table hold what."""

    text: str | None = Field(None, description="name of the text column, or several with commas between them, to be "
                             "joined; none: found by its name or its content")
    label: str | None = Field(None, description="name of the label column; none: found by its name or its content")
    group: str | None = Field(None, description="name of a column whose equal values stay on one side of the split")
    split: str | None = Field(None, description="name of a column that says train, val or test for each row")


class Split(Settings):
    """How rows are divided into train, validation and test."""

    protocol: Literal["grouped", "balanced", "ordered"] = Field(
        "grouped", description="grouped: all rows, stratified, the same normalised text never on two sides; "
        "balanced: as many rows of each class as the rarest has, drawn at random (the prior work's protocol); "
        "ordered: as the file goes, rows to train on first, then the test's, then the validation's")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of rows for validation")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of rows for the test")
    seed: int = Field(123, ge=0, description="seed of the split")


class Train(Settings):
    """What moves, for how long, and how."""

    method: Literal["auto", "full", "last-blocks", "head", "lora"] = Field(
        "auto", description="which weights move: all, the last blocks and the head, the head alone, or adapters of low "
        "rank (LoRA) and the head; auto follows weights, rows and machine")
    last_blocks: int = Field(2, ge=1, description="blocks that move under last-blocks, counted from the top")
    lora_rank: int = Field(8, ge=1, description="rank of an adapter's update")
    lora_alpha: float = Field(16.0, gt=0, description="scale of the update: alpha / rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the way into an adapter")
    lora_targets: tuple[str, ...] = Field(
        ("attention.qkv", "attention.out", "mlp.up", "mlp.down"), min_length=1,
        description="layers that get an adapter, by name or the end of one; * stands for any characters")
    epochs: int | None = Field(None, ge=1, description="passes over the training rows; none: follows the weights")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps at most; none: the epochs decide")
    batch_size: int = Field(16, ge=1, description="rows of one optimizer step, over all processes")
    micro_batch_tokens: int = Field(4096, ge=1, description="tokens, pads included, of one forward pass; "
                                    "a step of more tokens accumulates gradients")
    lr: float | None = Field(None, gt=0, description="peak learning rate; none: follows weights and method")
    min_lr_fraction: float = Field(0.1, ge=0, le=1, description="last learning rate, as a share of the peak")
    warmup_fraction: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising rate")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="the learning rate after the warmup: half a cosine down to the last one; constant: the "
        "peak for as long as decay_fraction leaves, so that training can end or go on at any time")
    decay_fraction: float = Field(0.0, ge=0, le=1, description="under schedule constant, share of the steps, the last "
                                  "ones, with a falling rate")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices of the blocks, with AdamW for the rest; for new weights")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of matrices; never of norms and biases")
    beta_1: float = Field(0.9, ge=0, lt=1, description="AdamW decay of the gradient's mean")
    beta_2: float = Field(0.99, ge=0, lt=1, description="AdamW decay of the gradient's square")
    clip_norm: float = Field(1.0, gt=0, description="largest global gradient norm")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in embeddings, attention and blocks")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: each class weighs the same in the loss")
    metric: Literal["f1_macro", "accuracy", "log_loss"] = Field(
        "f1_macro", description="validation metric of the best checkpoint; ties go to the lower log loss")
    evaluations_per_epoch: int = Field(1, ge=1, description="validations and checkpoints in each epoch")
    patience: int = Field(4, ge=1, description="validations without a better metric before training stops")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: autocast; auto: bf16 where this machine computes it faster")
    seed: int = Field(123, ge=0, description="seed of the head, the data order and dropout")
    threads: int = Field(0, ge=0, description="CPU threads; 0: all cores. Bits repeat at one thread count only")


class Evaluate(Settings):
    """What is measured, and how a probability becomes a decision."""

    metric: Literal["auto", "accuracy", "f1", "f1_macro"] = Field(
        "accuracy", description="the headline; f1 is that of the positive class and needs two classes; auto: f1 with "
        "two classes, else accuracy")
    positive: str | None = Field(None, description="positive label of two; none: the last in sorted order")
    threshold: Literal["half", "max-f1"] = Field(
        "half", description="decision rule for two classes: 0.5, or the best f1 on the validation rows")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples behind an interval")


class Pretrain(Settings):
    """How plain text becomes sequences."""

    val_fraction: float = Field(0.02, gt=0, lt=1, description="share of documents held out")
    val_blocks: int = Field(256, ge=1, description="blocks of held-out text that a validation during training reads")
    eval_data: str = Field("", description="a further text, never trained on, to be measured before and after")
    exclude: tuple[str, ...] = Field((), description="files, or folders of them, with the rows of evaluation sets: a "
                                     "document that holds half or more of a row's 8-grams of words is left out, or a "
                                     "shorter row as a line")
    across_documents: bool = Field(False, description="let attention cross from one packed document into the next")
    shares: dict[str, float] = Field({}, description="how often the documents of a file (its name without ending) "
                                     "are used: 0.2 for a fifth of them, 2 for twice; 1 where not named")


class Instruct(Settings):
    """How instruction records become prompts and answers."""

    style: Literal["alpaca", "chat", "plain"] = Field(
        "alpaca", description="the words around an instruction: those of Stanford Alpaca; chat: User: and Assistant:, "
        "also for several turns and a system message; plain: the instruction and its input, a line each")
    template: str = Field("", description="an own prompt in the style's place: text with {instruction} and {input}, "
                          "which the answer follows")
    loss_on: Literal["answer", "all"] = Field(
        "answer", description="tokens that are learnt: the answers and their ends, or those of the prompts too")
    malformed_fraction: float = Field(0.0, ge=0, lt=1, description="share of the records that may be malformed; they "
                                      "are left out and counted, and more of them are an error that lists some")
    max_new_tokens: int = Field(64, ge=1, description="tokens of an answer at most where answers are scored")


class Seq2Seq(Settings):
    """How sources become targets."""

    family: Literal["decoder", "encoder-decoder"] = Field(
        "encoder-decoder", description="decoder: one GPT reads source, separator and target in a row; encoder-decoder: "
        "the source is read both ways by an encoder, and both sides begin with a GPT's weights")
    source: str | None = Field(None, description="name of the source column; none: found by its name")
    target: str | None = Field(None, description="name of the target column; none: found by its name")
    silent_cross: bool = Field(True, description="begin with the cross-attention's output at zero, so that the decoder "
                               "is the GPT until it learns to look at its source; else drawn as other fresh weights")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the answer that is spread over all tokens")
    max_new_tokens: int = Field(64, ge=1, description="tokens of a target at most where targets are written")
    beams: int = Field(1, ge=1, description="beam search with so many beams in the evaluation; 1: greedy")
    length_penalty: float = Field(1.0, description="of beams: their log probability is divided by their length to "
                                  "this power")


class Compare(Settings):
    """What a comparison of methods trains."""

    candidates: tuple[str, ...] = Field(
        ("head", "last-block", "last-two-blocks", "full", "lora", "full-random", "first-token", "padded"), min_length=1,
        description="ways to adapt the weights, each trained under every seed on the same split")
    seeds: int = Field(3, ge=1, description="trainings of each, from train.seed upwards")


class Architectures(Settings):
    """What a comparison of architectures trains, and for how long."""

    trainings: tuple[str, ...] = Field(
        ("classify-encoder-random", "classify-decoder-random", "classify-both-random", "classify-encoder-pretrained",
         "classify-encoder-masked", "classify-decoder-pretrained", "classify-both-pretrained", "classify-both-whole",
         "numbers-decoder-random", "numbers-both-random", "numbers-decoder-pretrained", "numbers-both-pretrained",
         "text-encoder-random", "text-decoder-random", "text-both-random", "text-encoder-pretrained",
         "text-decoder-pretrained", "text-both-pretrained"), min_length=1,
        description="what is trained, as TASK-ARCHITECTURE-START, each under every seed; both is an encoder-decoder, "
        "whole one with all pretrained blocks on each side, masked an encoder after text-encoder-pretrained")
    seeds: int = Field(2, ge=1, description="trainings of each, from train.seed upwards")
    classify_steps: int = Field(150, ge=1, description="optimizer steps of each classifier")
    numbers_steps: int = Field(600, ge=1, description="optimizer steps of each model that writes numbers in words")
    text_steps: int = Field(100, ge=1, description="optimizer steps of each model that reads the bundled text")
    number_limit: int = Field(10_000, ge=100, le=1_000_000, description="numbers are drawn from 0 up to this one")
    test_numbers: int = Field(300, ge=10, description="numbers that no model learns from, for exact match")
    piece_tokens: int = Field(32, ge=2, description="tokens of running text that are given, and as many to predict")


class Shape(Settings):
    """The model that weights = "scratch" means."""

    layers: int = Field(6, ge=1, description="blocks")
    width: int = Field(256, ge=1, description="channels of the residual stream")
    heads: int = Field(4, ge=1, description="attention heads of a block")
    context: int = Field(256, ge=2, description="longest input in tokens")
    tokenizer: str = Field("", description="directory with vocab.json and merges.txt; none: the 256 bytes")


class Recipe(Settings):
    """Everything that decides what a run does."""

    pipeline: str = Field("", description="the pipeline whose stages run")
    task: Literal["classify", "pretrain", "instruct", "seq2seq"] = Field("classify", description="what is learnt")
    weights: str = Field("auto", description="a registry name, a directory, a hub id, or auto: GPT-2 124M if it is "
                         "at hand or reachable, else the bundled fallback; scratch: new weights of this recipe's shape")
    data: str = Field("", description="a registry name or a file; for pretrain a text file or a folder, for "
                      "instruct a file of records, for seq2seq a table of pairs")
    validation: str = Field("", description="a further table whose rows are the validation; none: taken from data")
    test: str = Field("", description="a further table whose rows are the test; none: taken from data")
    encoding: str | None = Field(None, description="how the characters of those tables are written that are not UTF-8 "
                                 "and have no byte order mark; none: such a table is an error")
    max_length: int | None = Field(None, ge=1, description="tokens a text is cut to; none: the model's context")
    columns: Columns = Columns()
    split: Split = Split()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    shape: Shape = Shape()
    pretrain: Pretrain = Pretrain()
    instruct: Instruct = Instruct()
    seq2seq: Seq2Seq = Seq2Seq()
    compare: Compare = Compare()
    architectures: Architectures = Architectures()


def check_method(train: Train) -> None:
    """Raise RecipeError where a setting was changed that the method or the schedule does not read."""
    if train.decay_fraction and train.schedule != "constant":
        raise RecipeError("train.decay_fraction is read by schedule constant alone", got=f"schedule {train.schedule}",
                          do="Leave it out, or give --set train.schedule=constant.")
    changed = [name for name, field in Train.model_fields.items()
               if name.startswith("lora_") and getattr(train, name) != field.default]
    if changed and train.method not in ("auto", "lora"):
        raise RecipeError(f"train.{changed[0]} is read by method lora alone", got=f"method {train.method}",
                          do="Leave it out, or give --set train.method=lora.")

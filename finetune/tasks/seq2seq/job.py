"""The task ``seq2seq``: write the target of a source. The loss covers the targets and their end tokens."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from finetune.checkpoints.fallback import SCRATCH
from finetune.console import progress
from finetune.errors import RecipeError
from finetune.evaluation.results import Start
from finetune.evaluation.written import References, WrittenTexts, loss_change
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT, IGNORE
from finetune.models.plain_attention import attention_maps
from finetune.models.sampling import Decoding
from finetune.models.transformer import LanguageModel
from finetune.models.warm_start import WarmStart, warm_encoder_decoder, zero_cross_attention
from finetune.recipe import Recipe, Train
from finetune.report.inputs import AttentionMap
from finetune.tasks.seq2seq.examples import Examples, writing_room
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.model import AnyFamily, Family, SourceToTarget, family_of
from finetune.tasks.seq2seq.pairs import TextPair
from finetune.tasks.seq2seq.score import NEAREST, UNTUNED, TargetRow, TargetsEvaluation, WarmStartRecord, score_targets
from finetune.tasks.seq2seq.settings import Seq2Seq
from finetune.tasks.writing import (
    Answer,
    column_slices,
    gather_test_rows,
    result_rows,
    spread_rows,
    write_answers,
    written_texts,
)
from finetune.tokenizer import Tokenizer
from finetune.training.batching import inference_batches
from finetune.training.job import Job
from finetune.training.sharing import share

Origin = LanguageModel | EncoderDecoder  # the models that a run can start from
FORCED_TOKENS = 2048  # tokens per teacher-forced evaluation batch
DRAWN = 3  # test pairs whose attention is saved
DRAWN_TOKENS = 40  # maximum length of their sources and targets, so that the picture is readable


def build_model(start: Origin, recipe: Recipe, end: int) -> tuple[AnyFamily, WarmStart | None]:
    """The family's model on its starting weights; for an encoder-decoder made from a GPT also the report of its tensors.

    Raises RecipeError for an encoder-decoder's weights with the family `decoder`.
    """
    settings = recipe.seq2seq
    if settings.family == "decoder" and isinstance(start, EncoderDecoder):
        raise RecipeError(
            "the family decoder cannot start from an encoder-decoder's weights",
            got="seq2seq.family=decoder",
            do="Give --set seq2seq.family=encoder-decoder, or other weights.",
        )
    if isinstance(start, EncoderDecoder) and recipe.weights == SCRATCH and settings.zero_init_cross_attention:
        zero_cross_attention(start)
    if settings.family == "decoder" or isinstance(start, EncoderDecoder):
        return family_of(start, end, settings.label_smoothing), None
    assert isinstance(start, GPT), "check_start refuses other models"
    model, report = warm_encoder_decoder(start, recipe.train.seed, settings.zero_init_cross_attention)
    return family_of(model, end, settings.label_smoothing), report


def build_job(model: Family, settings: Train, train: Examples, val: Examples, device: torch.device) -> Job[Family]:
    """The job for the training loop; a row's weight is its number of supervised tokens."""

    def batch(rows: list[int]) -> tuple[Tensor, ...]:
        return model.batch([train.pair(row) for row in rows])

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        return module(*tensors)

    def validate(module: Family) -> dict[str, float]:
        nats, right = teacher_forced(module, val, settings.tokens_per_pass, device)
        loss, count = float(nats.sum()) / sum(val.loss_tokens()), sum(val.loss_tokens())
        return {"log_loss": loss, "perplexity": math.exp(min(loss, 50.0)), "token_accuracy": float(right.sum()) / count}

    return Job(
        model,
        train.lengths(),
        [float(count) for count in train.loss_tokens()],
        batch,
        loss_sum,
        validate,
        name_row=lambda i: str(train.rows[i]),
        validation_tokens=sum(val.lengths()),
        pads=model.pads,
    )


def teacher_forced(model: Family, part: Examples, budget: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Teacher-forced evaluation of each pair: cross-entropy in nats, and correctly predicted tokens; (n,) each."""
    nats, right = np.zeros(len(part.rows)), np.zeros(len(part.rows))
    batches = inference_batches(part.lengths(), budget)

    def score(rows: list[int]) -> tuple[np.ndarray, ...]:
        batch = (tensor.to(device) for tensor in model.batch([part.pair(row) for row in rows]))
        return tuple(found.cpu().numpy() for found in model.teacher_forced(*batch))

    for rows, found in zip(batches, share(batches, score), strict=True):
        nats[rows], right[rows] = found
    return nats, right


def write(
    model: Family,
    sources: list[list[int]],
    tokenizer: Tokenizer,
    settings: Seq2Seq,
    max_new_tokens: int,
    device: torch.device,
) -> list[Answer]:
    """Targets for sources, in their order, by beam search or greedy decoding."""
    options = vars(decoding(settings.beams, settings.length_penalty))
    return write_answers(
        [len(source) + 1 for source in sources],
        tokenizer,
        max_new_tokens,
        lambda rows: model.write([sources[row] for row in rows], max_new_tokens, device, **options),
        "writing",
        settings.beams,
    )


def decoding(beams: int, length_penalty: float) -> Decoding:
    """The decoding options: beam search, or greedy for one beam."""
    return Decoding(beams=beams, length_penalty=length_penalty) if beams > 1 else Decoding(temperature=0.0)


def evaluate(
    before: Family,
    after: AnyFamily,
    tokenizer: Tokenizer,
    records: dict[str, list[TextPair]],
    parts: dict[str, Examples],
    recipe: Recipe,
    context: int,
    warm_start: WarmStart | None,
    start: Start,
    device: torch.device,
    column: dict[int, str] | None = None,
) -> tuple[TargetsEvaluation, list[TargetRow], list[AttentionMap]]:
    """Targets for the test's sources before and after training, and losses on test and validation.

    records: of all splits. parts: the examples of test and validation. Pairs that do not fit are left out, as in
    training. column: row number -> value of the column evaluate.slice_by. Returns the evaluation (its seconds are filled in
    later), all rows, and a few attention maps.
    """
    settings, resamples, seed = recipe.seq2seq, recipe.evaluate.resamples, recipe.train.seed
    models = {"before": before.eval(), "after": after.eval()}
    forced = {}
    for name, part in parts.items():
        for state, model in models.items():
            with progress(f"losses, {name} {state}", 1, unit="passes") as advance:
                forced[name, state] = teacher_forced(model, part, FORCED_TOKENS, device)
                advance(1)
    test = gather_test_rows(
        records, parts["test"].rows, lambda pair: pair.source, lambda pair: pair.target, ("source", "target")
    )
    members = test.members | column_slices(recipe, column, [record.row for record in test.records])
    ids = parts["test"].sources(
        writing_room(settings.family, parts["test"].max_length, context, settings.max_new_tokens)
    )
    written = {
        state: written_texts(
            write(model, ids, tokenizer, settings, settings.max_new_tokens, device), *forced["test", state]
        )
        for state, model in models.items()
    }
    scores, signatures = score_targets(
        written["after"],
        test.asked,
        References(test.wanted, np.array(parts["test"].loss_tokens())),
        {UNTUNED: written["before"], NEAREST: WrittenTexts(test.nearest)},
        test.clean,
        resamples,
        seed,
        members,
    )
    rows = result_rows(TargetRow, test, written)
    losses = [
        loss_change(name, {state: forced[name, state][0] for state in models}, part.loss_tokens(), resamples, seed)
        for name, part in parts.items()
    ]
    evaluation = TargetsEvaluation(
        **vars(start),
        **vars(scores),
        task="seq2seq",
        losses=losses,
        samples=spread_rows(rows),
        signatures=signatures,
        family=settings.family,
        warm_start=WarmStartRecord(**vars(warm_start)) if warm_start else None,
        schema_version=1,
        seconds=0.0,
    )
    short = [i for i, sizes in enumerate(zip(*parts["test"].sides(), strict=True)) if max(sizes) < DRAWN_TOKENS][:DRAWN]
    return evaluation, rows, [attention_of(after, parts["test"].pair(i), tokenizer, device) for i in short]


@torch.no_grad()
def attention_of(model: AnyFamily, pair: Pair, tokenizer: Tokenizer, device: torch.device) -> AttentionMap:
    """Attention of a target's tokens to its source: weights (T, S), the mean over layers and heads.

    For an encoder-decoder the cross-attention. For a decoder the part of its self-attention from the positions that
    predict the target to the source, without the attention to the separator and the target so far.
    """
    source, target = pair.source, pair.target
    *inputs, targets = (tensor.to(device) for tensor in model.batch([pair]))
    if isinstance(model, SourceToTarget):
        maps = attention_maps(model.body, inputs[0], inputs[2], source_mask=inputs[1])["cross"]
    else:
        maps = attention_maps(model.body, inputs[0])["decoder"][..., targets[0] != IGNORE, : len(source)]
    weights = maps[:, 0].mean(dim=(0, 1))  # (T, S)
    shown = [tokenizer.decode_bytes([token]).decode("utf-8", "replace") for token in (*source, *target)]
    return AttentionMap(
        shown[: len(source)],
        [*shown[len(source) :], "(end)"],
        [[float(f"{value:.4g}") for value in row] for row in weights.tolist()],  # 0 is left for masked sources
    )

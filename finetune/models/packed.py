"""Linear layers for generation on an x86 CPU, with each matrix in its fastest memory layout.

A decoder reads all its weights for every token. In bf16, or for several sequences at a time, `nn.Linear` is slower
than memory bandwidth, and oneDNN's packed layout is not. One sequence in fp32 is memory-bound in any layout, but the
transpose is faster: each row is accumulated into the result, with no reduction per row.
benchmarks/README.md has the figures.
"""

import copy
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import RecipeError
from finetune.models.cache import KVCache
from finetune.models.compiled import CompiledGPT, check_compiled, worth_compiling
from finetune.models.few_bits import Int4Linear, Int8Linear
from finetune.models.generate import Decoder, generate

if TYPE_CHECKING:
    from finetune.models.gpt import GPT
    from finetune.models.transformer import LanguageModel

C = TypeVar("C", bound=KVCache)
P = TypeVar("P", bound="Packable")
FEW_BITS: dict[str, Callable[[Tensor, Tensor | None], nn.Module]] = {"int8": Int8Linear, "int4": Int4Linear}
WORTH_IT = 64  # tokens over all sequences at which the time saved pays for the packing


class PackedLinear(nn.Module):
    """``nn.Linear`` without gradients. Later changes to the original layer have no effect on it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias = bias
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class TransposedLinear(nn.Module):
    """The same, optimised for a single position: a matrix-vector product."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.weight = weight.detach().t().contiguous().t()  # (C_out, C_in), column by column in memory

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        if x.numel() > x.shape[-1]:  # a prompt
            return F.linear(x, self.weight, self.bias)
        return torch.addmv(self.bias, self.weight, x.flatten()).view(*x.shape[:-1], -1)


def can_pack(weight: Tensor) -> bool:
    """True if a matrix like this can be packed and used in packed form."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    types = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.device.type == "cpu" and weight.dtype in types and not torch.is_autocast_enabled("cpu")


class Packable(Protocol):
    """The attributes of a model that ``packed_copy`` uses."""

    @property
    def output(self) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def modules(self) -> Iterator[nn.Module]: ...


class Extendable(Protocol[C]):
    """What reads tokens into a cache: a GPT, a Transformer or an encoder_decoder.DecoderWithSource."""

    def new_cache(self, room: int) -> C: ...

    def extend(self, input_ids: Tensor, cache: C) -> Tensor: ...


class PackedDecoder(Generic[C]):
    """A model with packed layers and its packed output matrix; implements ``generate.Decoder``."""

    def __init__(self, model: Extendable[C], output: Callable[[Tensor], Tensor]):
        self.model, self.output, self.new_cache = model, output, model.new_cache

    def next_logits(self, input_ids: Tensor, cache: C) -> Tensor:
        """Append tokens to the cache: (B, T) -> logits of the next token, (B, V)."""
        return self.output(self.model.extend(input_ids, cache))


def packed_copy(model: P, rows: int, max_new_tokens: int) -> tuple[P, nn.Module] | None:
    """A copy with packed layers for generating `rows` sequences, and its packed output; None if that saves no time.

    The linear layers and the output are in memory twice while the copy exists.
    """
    if rows * max_new_tokens < WORTH_IT or not can_pack(model.output):
        return None
    return copy_with_layers(
        model, TransposedLinear if rows == 1 and model.output.dtype == torch.float32 else PackedLinear
    )


def copy_with_layers(
    model: P,
    layer: Callable[[Tensor, Tensor | None], nn.Module],
    output: Callable[[Tensor, Tensor | None], nn.Module] | None = None,
) -> tuple[P, nn.Module]:
    """A copy whose linear layers are made by `layer` from weight and bias, and its output by `output`, or by `layer`.

    The copy shares all other tensors with the model.
    """
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in list(twin.modules()):
        for name, child in module.named_children():
            # not subclasses: an adapter computes something else; an output matrix of its own is packed apart
            if type(child) is nn.Linear and child.weight is not model.output:
                setattr(module, name, layer(child.weight, child.bias))
    return twin, (output or layer)(model.output, None)


def few_bits_decoder(model: "LanguageModel", dtype: str, compiled: bool = True) -> Decoder[KVCache]:
    """What generates with int8 or int4 copies of a model's matrices; the output matrix is int8 in both.

    compiled: whether to compile the step, where that works. Raises RecipeError for another dtype, for weights that are not
    fp32 on a CPU and, in int4, for matrices whose width is not a multiple of 32.
    """
    if dtype not in FEW_BITS:
        raise RecipeError(
            "unknown dtype of weights", got=dtype, known=f"{', '.join(FEW_BITS)}, or None for the model's own"
        )
    weight = model.token_embedding.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise RecipeError(
            f"{dtype} weights are made from fp32 weights on a CPU",
            got=f"{weight.dtype} on {weight.device.type}",
            do='Convert the model with model.float().to("cpu") first.',
        )
    twin, output = copy_with_layers(model, FEW_BITS[dtype], Int8Linear)
    plain: Decoder[KVCache] = PackedDecoder(twin, output)
    if not compiled:
        return plain
    try:
        check_compiled(model)
        return CompiledGPT(cast("GPT", twin), output, plain)
    except RecipeError:  # no compiler, another model, or adapters that are not merged
        return plain


def fast_decoder(
    model: "LanguageModel", rows: int, max_new_tokens: int, compiled: bool | None = None, dtype: str | None = None
) -> Decoder[KVCache]:
    """What generates `rows` sequences fastest: the compiled step, a packed copy, or the model.

    compiled: None: where it saves time and there is a compiler. dtype: "int8" or "int4" for such weights, with the
    compiled step where there is a compiler; None for the model's own.
    Raises RecipeError if the step is asked for and cannot be compiled for this model, and as ``few_bits_decoder`` says.
    """
    if dtype is not None:
        return few_bits_decoder(model, dtype, compiled is not False)
    if compiled or (compiled is None and worth_compiling(model, rows, max_new_tokens)):
        try:
            check_compiled(model)
            return CompiledGPT(cast("GPT", model))
        except RecipeError:  # no compiler, another model, or adapters that are not merged
            if compiled:
                raise
    packed = packed_copy(model, rows, max_new_tokens)
    return PackedDecoder(*packed) if packed else model


def generate_fast(
    model: "LanguageModel",
    input_ids: Tensor,
    max_new_tokens: int,
    compiled: bool | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Tensor:
    """Continue sequences as fast as this machine can, as ``GPT.generate`` says: (B, T) -> (B * samples, T + new)."""
    rows = len(input_ids) * options.get("beams", 1) * options.get("samples", 1)
    return generate(fast_decoder(model, rows, max_new_tokens, compiled, dtype), input_ids, max_new_tokens, **options)

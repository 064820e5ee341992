"""Convert Hugging Face tensors to our GPT and back, accounting for every tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from finetune.checkpoints.gpt2_keys import CLASSIFIER_HEAD, PREFIX, SKIPPED, TIED_HEAD, expand
from finetune.errors import WeightsError, listed
from finetune.models.gpt import GPT, GPTConfig


@dataclass
class LoadReport:
    """Which tensors of a file were loaded, and which were skipped."""

    loaded: int = 0
    parameters: int = 0
    transposed: int = 0
    skipped: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)


def load_gpt(
    config: GPTConfig, shapes: dict[str, tuple], read: Callable[[str], Tensor], source: str, mapped: bool = False
) -> tuple[GPT, LoadReport]:
    """Build a GPT from a file's tensors.

    shapes: names and shapes in the file. read: returns one tensor by name, so that memory holds the model and one
    tensor. mapped: use the tensors that `read` returns instead of copies, where they are in fp32; matrices are then
    transposed views. Before reading, raises WeightsError listing every missing, unexpected or wrongly shaped tensor.
    """
    rows = expand(config.layers)
    with torch.device("meta"), _Undrawn():  # allocate no memory until the config's sizes match the tensors
        empty = GPT(config)
    sizes = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    by_bare_name = {name.removeprefix(PREFIX): name for name in shapes}
    report = LoadReport(skipped=sorted(n for n in shapes if SKIPPED.fullmatch(n.removeprefix(PREFIX))))
    expected = {theirs: sizes[ours][:: -1 if transposed else 1] for theirs, ours, transposed in rows}

    problems = []
    if len(by_bare_name) < len(shapes):
        problems.append("duplicate names, with and without the prefix")
    problems += [f"missing {name} {shape}" for name, shape in expected.items() if name not in by_bare_name]
    problems += [
        f"unexpected {name}"
        for bare, name in by_bare_name.items()
        if bare not in expected and bare != TIED_HEAD and name not in (CLASSIFIER_HEAD, *report.skipped)
    ]
    problems += [
        f"{name} is {tuple(shapes[by_bare_name[name]])}, expected {shape}"
        for name, shape in expected.items()
        if name in by_bare_name and tuple(shapes[by_bare_name[name]]) != shape
    ]
    if problems:
        raise WeightsError(
            f"{source}: {len(problems)} tensors do not fit a GPT-2 of {config.layers} layers and width {config.width}",
            got=listed(problems, separator="; "),
        )

    model = empty
    if not mapped:
        with _Undrawn():
            model = GPT(config)
    parameters, views = dict(model.named_parameters()), {}
    for theirs, ours, transposed in rows:
        tensor = finite(read(by_bare_name[theirs]), theirs, source)
        report.dtypes = sorted({*report.dtypes, str(tensor.dtype).removeprefix("torch.")})
        own = tensor.T if transposed else tensor
        if mapped:
            views[ours] = own.float()
        else:
            with torch.no_grad():
                parameters[ours].copy_(own)
        report.loaded += 1
        report.transposed += transposed
        report.parameters += tensor.numel()
    if mapped:
        model.load_state_dict(views, assign=True)
    if TIED_HEAD in by_bare_name:
        if not torch.equal(read(by_bare_name[TIED_HEAD]), read(by_bare_name["wte.weight"])):
            raise WeightsError(
                f"{source}: {TIED_HEAD} differs from wte.weight",
                known="GPT-2 ties the two; untied output matrices are not supported",
            )
        report.skipped.append(by_bare_name[TIED_HEAD])
    return model, report


def gpt_tensors(model: GPT) -> dict[str, Tensor]:
    """The model's tensors with Hugging Face names including the prefix, contiguous and on the CPU."""
    parameters, rows = dict(model.named_parameters()), expand(model.config.layers)
    assert parameters.keys() == {ours for _, ours, _ in rows}, "adapters are merged before a checkpoint is written"
    return {PREFIX + theirs: _stored(parameters[ours], transposed) for theirs, ours, transposed in rows}


class _Undrawn(TorchFunctionMode):
    """Skips random initialisation: the weights come from a file, and on meta it would import torch's compiler."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return None
        return function(*args, **(kwargs or {}))


def _stored(parameter: Tensor, transposed: bool) -> Tensor:
    tensor = parameter.detach().cpu()
    return (tensor.T if transposed else tensor).contiguous()


def finite(tensor: Tensor, name: str, source: str) -> Tensor:
    """Return the tensor if all its values are finite in fp32. Raises WeightsError.

    Checks only the minimum and maximum, which a NaN propagates to: 30 times faster than ``isfinite`` on all values.
    """
    if not tensor.is_floating_point() or not all(map(torch.isfinite, torch.aminmax(tensor.float()))):
        raise WeightsError(f"{source}: {name} contains values that are not finite", got=str(tensor.dtype))
    return tensor

"""ONNX: a graph that onnxruntime runs without torch, compared on every text before it is published.

A classifier's graph selects each text's last real token itself, and its metadata contain all that a prediction needs; a
standalone predict.py is beside it. A language model's graph returns the logits of every position, without a cache.
"""

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import gpt_of
from finetune.console import escape_markdown
from finetune.errors import RunError
from finetune.evaluation.label_sets import indicators
from finetune.export import standalone
from finetune.export.cost import Rule, cost_in_accuracy, equal_rows
from finetune.export.exportable import (
    TOLERANCE,
    Exportable,
    Exported,
    draft_of,
    random_ids,
    refuse,
    refuse_own_head,
    write_readme,
)
from finetune.export.extras import require
from finetune.export.standalone import OnnxClassifier
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.tables.label_sets import labels_in
from finetune.training.pieces import average, pieces_of
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

MERGED = True
QUANTIZED = ("int8",)
OPSET = 20
INLINE_LIMIT = 1 << 30  # bytes of weights; larger ones go into a second file, since an ONNX file is limited to 2 GiB


def write(
    thing: Exportable, directory: Path, base: WeightsSource | None = None, quantize: str | None = None
) -> Exported:
    """Write the directory completely or not at all. base: unused.

    Raises RunError if a package is missing or the model is not a GPT-2, and WeightsError if a logit, a label or a
    decision differs; an older export is then kept. int8 has no tolerance: its cost is measured and reported.
    """
    require("onnx", "onnx", "onnxscript", "onnxruntime")
    refuse_own_head(thing, "ONNX")
    model = thing.model
    body = model.body if isinstance(model, Classifier) else model
    if not isinstance(body, GPT) or not isinstance(model, GPT | Classifier):
        raise RunError(
            f"{thing.name}: {body.kind}, which this format does not support",
            known="classifiers and language models on GPT-2",
            do="Export it with --format hf.",
        )
    with draft_of(directory) as draft:
        draft.mkdir(parents=True)
        path, graph = draft / "model.onnx", draft / "fp32.onnx"
        metadata = _metadata(thing, quantize)
        _trace(model, graph if quantize else path, metadata)
        if quantize:
            _quantize(graph, path, metadata)
        thing.tokenizer.save(draft)
        for name, text in thing.files.items():
            (draft / name).write_text(text, encoding="utf-8", newline="\n")
        if isinstance(model, Classifier):
            shutil.copyfile(standalone.__file__, draft / "predict.py")
            exported = compare_classifier(draft, thing, model, quantize)
        else:
            exported = compare_language_model(draft, model, quantize)
        for left in draft.glob("fp32.onnx*"):
            left.unlink()
        write_readme(draft, thing, _readme(thing, exported), library="onnx")
    return exported


class LastTokenLogits(nn.Module):
    """A classifier for a padded batch, which finds each last real token from the attention mask."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids (B, T) and attention mask (B, T), padded on the right -> logits (B, K)."""
        logits: Tensor = self.classifier(input_ids, attention_mask.sum(dim=1) - 1)
        return logits


def compare_classifier(directory: Path, thing: Exportable, model: Classifier, quantize: str | None) -> Exported:
    """Compare the standalone predictor with our own model on every text: labels, decisions and probabilities."""
    other = OnnxClassifier(directory)
    rows = [pieces_of(ids, other.long_texts, thing.max_length) for ids in encode(thing.tokenizer, thing.texts)]
    same_ids = sum(theirs == own for theirs, own in zip(other.encode(thing.texts), rows, strict=True))
    ours = predict_logits(model, [piece for pieces in rows for piece in pieces])
    ours, theirs = average(ours, np.array([len(pieces) for pieces in rows])), other.logits(thing.texts)
    read, rule = other.probabilities(thing.texts), Rule.of(thing)
    said = rule.probabilities(ours)
    decided, names = rule.decide(said), other.predict(thing.texts)[0]
    if rule.thresholds is None:
        labels = np.array([other.labels.index(label) for label in names])
    else:
        labels = indicators([labels_in(own) for own in names], other.labels)
    difference = float(np.abs(ours - theirs).max())
    same, total = int(equal_rows(decided, labels).sum()), len(thing.texts)
    if same_ids < total or not (quantize or (difference <= TOLERANCE and same == total)):
        raise refuse(
            "onnxruntime",
            f"largest logit difference {difference:.2e}, {same} of {total} decisions and {same_ids} token lists equal",
        )
    summary = (
        f"onnxruntime makes the same decision on {same} of {total} texts, largest logit difference {difference:.1e}"
    )
    if quantize:
        summary = f"{quantize}: {summary}, largest probability difference {np.abs(said - read).max():.1e}"
        cost = cost_in_accuracy(thing.targets, decided, labels)
        summary += f"; {cost.text()}" if cost else ""
    return Exported(True, summary, difference, total, same)


def compare_language_model(directory: Path, model: GPT, quantize: str | None) -> Exported:
    """Compare logits on random ids of several shapes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    ids = random_ids(model.config)
    difference = 0.0
    same = total = 0
    for batch in (ids, ids[:1, :1], ids.repeat(3, 1)[:, :7]):
        with torch.inference_mode():
            ours = model.cpu()(batch).numpy()
        theirs = session.run(["logits"], {"input_ids": batch.numpy()})[0]
        difference = max(difference, float(np.abs(ours - theirs).max()))
        same, total = same + int((ours.argmax(-1) == theirs.argmax(-1)).sum()), total + batch.numel()
    if not quantize and not difference <= TOLERANCE:
        raise refuse("onnxruntime", f"largest logit difference {difference:.2e}")
    if quantize:
        likeliest = f"the same likeliest token at {same} of {total} positions"
        return Exported(
            True, f"{quantize}: onnxruntime gives {likeliest}, largest logit difference {difference:.1e}", difference
        )
    return Exported(True, f"onnxruntime gives the same logits, largest difference {difference:.1e}", difference)


def _metadata(thing: Exportable, quantize: str | None) -> dict[str, str]:
    """The graph's metadata, each value as JSON: for a classifier, everything in its bundle.json."""
    if "bundle.json" in thing.files:
        card: dict[str, Any] = json.loads(thing.files["bundle.json"])
        card.pop("estimator", None)
        card.setdefault("aim", "half")  # a card leaves out default values
    else:
        card = {"tokenizer_sha256": thing.tokenizer.fingerprint(), "end_of_text": thing.tokenizer.end_of_text}
    card |= {"max_length": thing.max_length or _gpt(thing).config.context, "quantized": quantize}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in card.items()}


def _gpt(thing: Exportable) -> GPT:
    body = thing.model.body if isinstance(thing.model, Classifier) else thing.model
    assert isinstance(body, GPT), "other models are refused"
    return body


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide messages of torch's and onnxruntime's exporters to developers: suggested packages and tuning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _trace(model: Classifier | GPT, path: Path, metadata: dict[str, str]) -> None:
    """Write the graph, for any batch and length."""
    from torch.export import Dim

    gpt = gpt_of(model)
    example = torch.zeros(2, min(5, gpt.config.context), dtype=torch.long)  # a size of 1 would be treated as fixed
    sizes = {0: Dim("batch", min=1), 1: Dim("length", min=1, max=gpt.config.context)}
    if isinstance(model, Classifier):
        module: nn.Module = LastTokenLogits(model)
        inputs = {"input_ids": example, "attention_mask": torch.ones_like(example)}
    else:
        module, inputs = model, {"input_ids": example}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.cpu().eval(),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(inputs, sizes),
            input_names=list(inputs),
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None, "what dynamo=True returns"
    program.model.metadata_props.update(metadata)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    program.save(str(path), external_data=size > INLINE_LIMIT)


def _quantize(source: Path, target: Path, metadata: dict[str, str]) -> None:
    """Quantize the weights to int8; activations are quantized at run time (onnxruntime's dynamic quantization)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    large = source.with_name(f"{source.name}.data").exists()
    with quiet():
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, use_external_data_format=large)
    graph = onnx.load(target, load_external_data=False)
    onnx.helper.set_model_props(graph, metadata)
    onnx.save(graph, target)


def _readme(thing: Exportable, exported: Exported) -> str:
    lines = [
        f"# {escape_markdown(thing.name)}",
        "",
        "A GPT-2 model in ONNX, exported by gpt2-finetune.",
        "",
        f"- {exported.summary}",
        "",
        "## Use",
        "",
    ]
    if isinstance(thing.model, Classifier):
        lines += [
            "    pip install numpy tiktoken onnxruntime",
            '    python predict.py "a text"',
            "",
            "predict.py needs those three packages and nothing else. The graph takes `input_ids` and `attention_mask`",
            "(B, T), padded on the right, and gives `logits` (B, K); its metadata contain labels, length, threshold and",
            "temperature, which predict.py applies.",
        ]
    else:
        lines += [
            "    import onnxruntime",
            '    session = onnxruntime.InferenceSession("model.onnx")',
            '    [logits] = session.run(["logits"], {"input_ids": [[1, 2, 3]]})    # (B, T) -> (B, T, V)',
            "",
            "There is no cache: each new token reads the whole text again. `--format hf` generates faster.",
        ]
    return "\n".join([*lines, ""])

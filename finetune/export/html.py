"""HTML: one file with a small model and its tokenizer, which runs in a browser without a network.

Weights are int8 with a scale per row, as in models/few_bits.py; page/ has the forward pass and tokenizer in JavaScript.
The written file is read back and its logits are compared with the model's in int8; the page compares its own logits with
them when it opens. The cost of int8 is measured on the test rows, and shown on the page and in page.json.
"""

import base64
import copy
import json
import math
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from finetune import pages
from finetune.checkpoints.sources import WeightsSource
from finetune.checkpoints.store import gpt_of
from finetune.console import escape_markdown
from finetune.errors import RunError
from finetune.evaluation.intervals import wilson
from finetune.export.cost import Cost, Rule, cost_in_accuracy, cost_in_loss, equal_rows
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
from finetune.models.few_bits import quantize_rows, rounded_copy
from finetune.models.gpt import GPT, IGNORE
from finetune.models.heads import Classifier
from finetune.records import Record
from finetune.tokenizer import END_OF_TEXT, Tokenizer, byte_alphabet
from finetune.training.pieces import average, pieces_of
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

MERGED = True
FILE, ABOUT = "index.html", "page.json"
MOST_BYTES = 32 << 20  # of int8 weights; a larger page is slow to open and to run
HELD_OUT_TOKENS = 20_000  # on which the cost of a language model is measured
CHECKED = 8, 64  # token ids and logits that the page compares when it opens
PAGE = Path(__file__).parent / "page"
HEAD = "head.weight"  # of a classifier; all else is the body's


@dataclass(frozen=True)
class PageCard(Record):
    """The content of page.json: the size of the page, and the cost of its int8 weights."""

    name: str
    kind: str
    int8_bytes: int  # a byte for each weight
    page_bytes: int
    cost: Cost | None
    cost_said: str


def write(thing: Exportable, directory: Path, base: WeightsSource | None = None) -> Exported:
    """Write the directory completely or not at all. base: unused.

    Raises RunError for a model that is too large for a page or no GPT-2, WeightsError if a logit is read back differently.
    """
    refuse_own_head(thing, "HTML")
    model = thing.model
    body = model.body if isinstance(model, Classifier) else model
    if not isinstance(body, GPT) or not isinstance(model, GPT | Classifier):
        _refuse_kind(thing, body.kind)
    if thing.card and thing.card.pipeline_tag not in ("text-classification", "text-generation"):
        _refuse_kind(thing, f"a model for {thing.card.pipeline_tag}")
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_BYTES:
        raise RunError(
            f"{thing.name}: too large for a page in a browser",
            got=f"{size / 1e6:.0f} MB of int8 weights, {size / 1e6 * 4 / 3:.0f} MB of HTML",
            known=f"up to {MOST_BYTES / 1e6:.0f} MB, as with weights=mini",
            do="Export it with --format onnx, or a language model with --format gguf.",
        )
    model = cast("Classifier | GPT", model.cpu().eval())
    rounded = rounded_copy(model)
    if isinstance(model, Classifier):
        cost, said = _cost_of_classifier(thing, model, cast(Classifier, rounded))
    else:
        cost, said = _cost_of_language_model(thing, model, cast(GPT, rounded))
    with draft_of(directory) as draft:
        draft.mkdir(parents=True)
        kind = "text classifier" if isinstance(model, Classifier) else "language model"
        about = PageCard(thing.name, f"GPT-2 {kind}", size, 0, cost, said)
        page = _render(thing, model, rounded, about)
        (draft / FILE).write_text(page, encoding="utf-8", newline="\n")
        card = PageCard(**vars(about) | {"page_bytes": len(page.encode())})
        text = json.dumps(card.to_json(), indent=2, ensure_ascii=False) + "\n"
        (draft / ABOUT).write_text(text, encoding="utf-8", newline="\n")
        exported = compare(draft / FILE, model, rounded, said)
        write_readme(draft, thing, _readme(thing, exported, card), library="gpt2-finetune", relation="quantized")
    return exported


def compare(path: Path, model: Classifier | GPT, rounded: Classifier | GPT, said: str) -> Exported:
    """Read the page's weights back, and compare the logits of random ids with those of the rounded model."""
    ids = random_ids(gpt_of(model).config)
    inputs = (ids, torch.full((len(ids),), ids.shape[1] - 1)) if isinstance(model, Classifier) else (ids,)
    again = copy.deepcopy(model)
    again.load_state_dict(read_page(path))
    with torch.inference_mode():
        difference = float((again(*inputs) - rounded(*inputs)).abs().max())
    if not difference <= TOLERANCE:
        raise refuse("The page", f"largest logit difference {difference:.2e}")
    return Exported(
        True, f"int8: {said}; read back, the same int8 logits, largest difference {difference:.1e}", difference
    )


def read_page(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a page in fp32, under the model's own names."""
    text = path.read_text(encoding="utf-8")
    [held] = re.findall(r'id="weights">([^<]*)<', text)
    [data] = re.findall(r'id="data">([^<]*)<', text)
    known, raw = json.loads(data), base64.b64decode(held)
    at, found = 8 * known["tokenizer"]["merges"], {}
    body = "" if known["rule"] is None else "body."
    for name, rows, columns in known["tensors"]:
        numbers = torch.frombuffer(bytearray(raw[at : at + 4 * rows]), dtype=torch.float32)
        at += 4 * rows
        if columns:
            levels = torch.frombuffer(bytearray(raw[at : at + rows * columns]), dtype=torch.int8)
            numbers, at = levels.view(rows, columns) * numbers[:, None], at + rows * columns
        found[name if name == HEAD else body + name] = numbers
    return found


def _refuse_kind(thing: Exportable, kind: str) -> None:
    raise RunError(
        f"{thing.name}: {kind}, which this format does not support",
        known="classifiers and language models on GPT-2",
        do="Export it with --format hf.",
    )


def _cost_of_classifier(thing: Exportable, model: Classifier, rounded: Classifier) -> tuple[Cost | None, str]:
    """The cost on all test texts."""
    rule, way = Rule.of(thing), json.loads(thing.files["bundle.json"]).get("long_texts", "cut")
    rows = [pieces_of(ids, way, thing.max_length) for ids in encode(thing.tokenizer, thing.texts)]
    pieces, counts = [piece for row in rows for piece in row], np.array([len(row) for row in rows], dtype=int)
    if not pieces:
        return None, "not measured: no test texts"
    before, after = (
        rule.decide(rule.probabilities(average(predict_logits(own, pieces), counts))) for own in (model, rounded)
    )
    cost, other = cost_in_accuracy(thing.targets, before, after), int((~equal_rows(before, after)).sum())
    low, high = wilson(other, len(rows))
    said = f"a different decision from fp32 on {other:,} of {len(rows):,} test texts (95 % interval {low:.1%} to {high:.1%})"
    return cost, f"{said}; {cost.text()}" if cost else said


@torch.inference_mode()
def _cost_of_language_model(thing: Exportable, model: GPT, rounded: GPT) -> tuple[Cost | None, str]:
    """The cost on held-out rows, or on evenly spaced ones if there are many."""
    rows = list(thing.held_out()) if thing.held_out else []
    tokens = sum(len(ids) for ids, _ in rows)
    rows = list(islice(rows, 0, None, max(math.ceil(tokens / HELD_OUT_TOKENS), 1)))
    losses = [
        [float(own.loss_sum(torch.tensor([ids]), torch.tensor([targets]))) for ids, targets in rows]
        for own in (model, rounded)
    ]
    supervised = np.array([sum(target != IGNORE for target in targets) for _, targets in rows], dtype=float)
    cost = cost_in_loss(np.array(losses[0]), np.array(losses[1]), supervised)
    return cost, cost.text() if cost else "its cost is not measured: no held-out rows"


def _render(thing: Exportable, model: Classifier | GPT, rounded: Classifier | GPT, about: PageCard) -> str:
    gpt, tokenizer = gpt_of(model), thing.tokenizer
    index, parts = [], [_merges(tokenizer)]
    for name, parameter in model.named_parameters():
        values = parameter.detach().float()
        index.append([name.removeprefix("body."), len(values), values.shape[1] if values.ndim == 2 else 0])
        if values.ndim == 2:
            levels, scale = quantize_rows(values)
            parts += [scale.numpy().astype("<f4").tobytes(), levels.numpy().tobytes()]
        else:
            parts.append(values.numpy().astype("<f4").tobytes())
    config = gpt.config
    data = {
        "about": about.to_json() | {"cost_said": f"int8: {about.cost_said}."},
        "rule": _rule(thing) if isinstance(model, Classifier) else None,
        "prompt": _prompt(thing),
        "stop": thing.stop,
        "shape": {
            "width": config.width,
            "layers": config.layers,
            "heads": config.heads,
            "context": config.context,
            "eps": config.norm_eps,
        },
        "tensors": index,
        "tokenizer": {
            "bytes": _bytes(tokenizer),
            "merges": len(parts[0]) // 8,
            "special": sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__),
            "end": tokenizer.end_of_text,
        },
        "check": _check(rounded),
    }
    scripts = [PAGE / name for name in ("tokenizer.js", "gpt.js", "page.js")]
    weights = base64.b64encode(b"".join(parts)).decode()
    return pages.render(PAGE / "page.html", scripts, thing.name, data, WEIGHTS=weights)


def _merges(tokenizer: Tokenizer) -> bytes:
    """The ids of the two tokens that each merge joins, in order, as 32-bit integers."""
    vocab: dict[str, int] = json.loads(tokenizer.vocab_json)
    lines = (line for line in tokenizer.merges_txt.split("\n") if line and not line.startswith("#version"))
    return np.array([[vocab[part] for part in line.split(" ")] for line in lines], dtype="<u4").tobytes()


def _bytes(tokenizer: Tokenizer) -> list[int]:
    """The byte of each of the first 256 ids."""
    vocab: dict[str, int] = json.loads(tokenizer.vocab_json)
    return sorted(range(256), key=lambda byte: vocab[byte_alphabet()[byte]])


def _rule(thing: Exportable) -> dict[str, Any]:
    """How the page reads a text and decides, from the bundle's card."""
    card = json.loads(thing.files["bundle.json"])
    usual = {"long_texts": "cut", "white_space": "keep"}
    names = ("positive", "threshold", "thresholds", "costs", "abstain_below", *usual)
    chosen = {name: card.get(name, usual.get(name)) for name in names}
    return chosen | {"labels": card["labels"], "temperature": card["temperature"], "max_length": thing.max_length}


def _prompt(thing: Exportable) -> list[str] | None:
    """The text around a question, as in training; None for a model that continues plain text.

    Raises WeightsError if its tokens differ from those of the run's own prompts.
    """
    template = thing.tokenizer_settings.get("chat_template")
    if template is None:
        return None
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    mark = "\0"
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": "user", "content": mark}]
    text: str = environment.from_string(template).render(
        messages=messages, add_generation_prompt=True, eos_token=END_OF_TEXT
    )
    parts = text.split(mark)
    for said in thing.conversations:
        if [message["role"] for message in said.messages] == ["user"]:
            text = said.messages[0]["content"].join(parts)
            if thing.tokenizer.encode(text) != said.prompt:
                raise refuse("The page", "another prompt than in training")
    return parts


@torch.inference_mode()
def _check(rounded: Classifier | GPT) -> dict[str, list[Any]]:
    """A few ids, and the first logits after the last of them."""
    ids, most = random_ids(gpt_of(rounded).config)[:1, : CHECKED[0]], CHECKED[1]
    at = torch.tensor([ids.shape[1] - 1])
    logits = rounded(ids, at)[0] if isinstance(rounded, Classifier) else rounded(ids)[0, -1]
    return {"ids": ids[0].tolist(), "logits": logits[:most].tolist()}


def _readme(thing: Exportable, exported: Exported, card: PageCard) -> str:
    return "\n".join(
        [
            f"# {escape_markdown(thing.name)}",
            "",
            f"A {card.kind} in one HTML file, exported by gpt2-finetune. {FILE} contains its int8 weights and its tokenizer,",
            "and runs in a browser without a network.",
            "",
            f"- {exported.summary}",
            f"- {card.page_bytes / 1e6:.1f} MB, for {card.int8_bytes / 1e6:.1f} MB of int8 weights",
            "",
            "## Use",
            "",
            f"Open {FILE}. Nothing that is typed there leaves the page: its content security policy allows no request.",
            "",
        ]
    )

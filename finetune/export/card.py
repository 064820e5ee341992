"""The YAML at the head of a model card, which the Hugging Face hub and its tools read."""

from dataclasses import dataclass, field

from finetune.evaluation.results import Headline, Metric, StartWeights
from finetune.hub.card import Result, card_yaml
from finetune.hub.registry import weights_registry

TAGS = ["gpt2", "gpt2-finetune"]
LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC BY 4.0": "cc-by-4.0", "CC BY-SA 4.0": "cc-by-sa-4.0"}


@dataclass(frozen=True)
class Card:
    """The facts on a model card; none of them contains texts of the user."""

    pipeline_tag: str  # the model's task, in the hub's terms
    weights: StartWeights  # the initial weights
    headline: Headline | None = None
    data: str = ""  # name of the data it was measured on
    metrics: dict[str, Metric] = field(default_factory=dict)  # all of them, on the same rows


def front_matter(card: Card | None, name: str, library: str = "transformers", relation: str = "finetune") -> str:
    """The YAML between two lines of dashes. relation: to the base model, ``finetune`` or ``adapter``."""
    if card is None:
        return f"---\n{card_yaml(library=library, tags=TAGS)}\n---\n\n"
    row, headline = weights_registry().get(card.weights.name), card.headline
    public = row if row and card.weights.source.startswith(row.repo) else None
    results = []
    if headline is not None:
        measured = {headline.metric: headline} | card.metrics
        results = [
            Result(card.pipeline_tag, card.data or "own data", headline.split, metric, round(own.value, 6))
            for metric, own in measured.items()
            if own.value is not None
        ]
    text = card_yaml(
        library=library,
        tags=TAGS,
        name=name,
        task=card.pipeline_tag,
        licence=LICENCES.get(card.weights.licence),
        base=public.repo if public else None,
        relation=relation,
        results=results,
    )
    return f"---\n{text}\n---\n\n"

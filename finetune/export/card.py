"""The YAML at the head of a model card, by which the Hugging Face hub and its tools know a model."""

from dataclasses import dataclass

from finetune.evaluation.results import Headline, StartWeights
from finetune.hub.registry import weights_registry

TAGS = ["gpt2", "gpt2-finetune"]
LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC BY 4.0": "cc-by-4.0", "CC BY-SA 4.0": "cc-by-sa-4.0"}


@dataclass(frozen=True)
class Card:
    """What a model card says of a model, of which nothing is the user's text."""

    pipeline_tag: str  # what the model does, in the hub's words
    weights: StartWeights  # that it began with
    headline: Headline | None = None
    data: str = ""  # name of the data it was measured on


def front_matter(card: Card | None, name: str, library: str = "transformers", relation: str = "finetune") -> str:
    """The YAML between two lines of dashes. relation: to the base model, ``finetune`` or ``adapter``."""
    from huggingface_hub import EvalResult, ModelCardData

    if card is None:
        return f"---\n{ModelCardData(library_name=library, tags=TAGS).to_yaml()}\n---\n\n"
    row = weights_registry().get(card.weights.name)
    public = row if row and card.weights.source.startswith(row.repo) else None
    results = None
    if card.headline is not None and card.headline.value is not None:
        results = [
            EvalResult(
                task_type=card.pipeline_tag,
                dataset_type="own",
                dataset_name=card.data or "own data",
                dataset_split=card.headline.split,
                metric_type=card.headline.metric,
                metric_value=round(card.headline.value, 6),
            )
        ]
    data = ModelCardData(
        license=LICENCES.get(card.weights.licence),
        base_model=public.repo if public else None,
        base_model_relation=relation if public else None,
        pipeline_tag=card.pipeline_tag,
        library_name=library,
        tags=TAGS,
        model_name=name if results else None,
        eval_results=results,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"

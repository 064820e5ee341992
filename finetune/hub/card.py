"""The YAML of a model card, created and checked by the hub's own library, without the network."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A metric of a model on its test data, in the hub's terms."""

    task: str
    data: str
    split: str
    metric: str
    value: float


def card_yaml(
    *,
    library: str,
    tags: list[str],
    name: str | None = None,
    task: str | None = None,
    licence: str | None = None,
    base: str | None = None,
    relation: str | None = None,
    results: Sequence[Result] = (),
) -> str:
    """The YAML with all fields that are known. relation: to the base model, ``finetune`` or ``adapter``."""
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type=result.task,
            dataset_type="own",
            dataset_name=result.data,
            dataset_split=result.split,
            metric_type=result.metric,
            metric_value=result.value,
        )
        for result in results
    ]
    return ModelCardData(
        license=licence,
        base_model=base,
        base_model_relation=relation if base else None,
        pipeline_tag=task,
        library_name=library,
        tags=tags,
        model_name=name if found else None,
        eval_results=found or None,
    ).to_yaml()

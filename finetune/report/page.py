"""What a page is made from, and the parts that every task's page has."""

import dataclasses
import shlex
from dataclasses import dataclass

from finetune.report import provenance
from finetune.report.blocks import Section


@dataclass(frozen=True)
class Files:
    """What a run left, as it was read."""

    name: str  # of the run
    recipe: dict
    evaluation: dict
    card: dict  # of the data; empty where there is none
    stages: list[dict]
    log: dict  # the columns of train.jsonl
    wrong: dict | None  # the most confident errors of predictions.csv
    attention: list[dict] = dataclasses.field(default_factory=list)  # of attention.json

    def trained(self) -> dict:
        """The train stage's result, with the time of the whole stage: the pass through frozen blocks counts.

        After a resumption the stage's record knows the last sitting only, the loop's sum all of them: the larger holds.
        """
        record = next((stage for stage in self.stages if stage.get("stage") == "train"), {})
        result = record.get("result") or {}
        times = [part["seconds"] for part in (record, result) if part.get("seconds") is not None]
        return result | {"seconds": max(times, default=None)}


def make_page(files: Files, kind: str, verdict: str, tiles: list[dict], sections: list[Section],
              use: list[Section] | None = None, notice: dict | None = None) -> dict:
    """Everything a template shows: the task's own sections, then how the run was made and may be used."""
    evaluation, card = files.evaluation, files.card
    weights = evaluation.get("weights") or {}
    about = [card.get("name"), weights.get("name"), evaluation.get("method") or files.trained().get("method")]
    return {"kind": kind, "name": files.name, "about": [str(part) for part in about if part], "verdict": verdict,
            "notice": notice, "tiles": tiles,
            "sections": [*sections, provenance.what_was_run(files.name, files.recipe, _descriptions(), files.stages,
                                                            weights), *(use or []), *provenance.licence(card)]}


def fallback_notice(files: Files) -> dict | None:
    """What to say, and what to type, where the run had to do without GPT-2."""
    weights, name = files.evaluation.get("weights") or {}, files.name
    if not weights.get("fallback"):
        return None
    what, _, _ = weights["note"].partition(". ")  # the rest says in words what the commands do
    recipe = shlex.quote(f"runs/{name}/recipe.json")
    return {"text": f"{what.rstrip('.')}. To use GPT-2, connect and run:", "commands": "finetune weights get gpt2\n"
            f"finetune run {recipe} --set weights=gpt2 --name {shlex.quote(name + '-gpt2')}"}


def _descriptions() -> dict[str, str]:
    """Dotted key -> what the setting means, from the schema of recipes."""
    from finetune.config import Settings
    from finetune.recipe import Recipe

    def walk(schema, prefix=""):
        for key, field in schema.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, Settings):
                yield from walk(nested, f"{prefix}{key}.")
            else:
                yield prefix + key, field.description or ""
    return dict(walk(Recipe))

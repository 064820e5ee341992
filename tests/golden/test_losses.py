"""The losses of a toy training, as they once were: a refactoring keeps them, a change of theirs is explained.

To change them on purpose, run ``PYTHONPATH=. python tests/golden/test_losses.py`` and say in the commit why the
numbers moved. fp32, one thread; machines differ in the last bits, which training amplifies, hence the tolerance.
"""

import json
import runpy
import sys
import tempfile
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("losses.json")
METHODS = {"full": {}, "last-blocks": {}, "head": {}, "lora": {}, "full, balanced": {"class_weights": "balanced"}}


def first_losses(name: str, directory: Path) -> dict[str, list[float]]:
    """Losses and gradient norms of the first 20 optimizer steps, and the validation losses among them."""
    from finetune.training.loop import train

    toy_job = runpy.run_path(str(Path(__file__).parents[1] / "toy.py"))["toy_job"]
    job, settings = toy_job(name.partition(",")[0], epochs=4, lr=1e-3, **METHODS[name])
    train(job, settings, directory, {}, checkpoint_seconds=1e9)
    lines = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line][:20]
    validations = [line["validation"]["log_loss"] for line in lines if "validation" in line and line["step"] <= 20]
    return {
        "loss": [line["loss"] for line in steps],
        "grad_norm": [line["grad_norm"] for line in steps],
        "validation": validations,
    }


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_what_they_were(name, tmp_path):
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    found = first_losses(name, tmp_path)
    assert len(found["loss"]) == 20 and len(found["validation"]) == 3
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["validation"] == pytest.approx(expected["validation"], rel=1e-5)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)


if __name__ == "__main__":
    found = {}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            found[method] = first_losses(method, Path(folder))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

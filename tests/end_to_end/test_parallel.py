"""One process = two with whole models (DDP) = two with divided ones (FSDP2): losses, gradient norms and weights.

All trainings of two processes run in one pair of them. Batches are ragged: in a step of one row, one process has none.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.errors import RecipeError
from finetune.execution import execute, open_run
from finetune.pipeline import load_pipeline, make_recipe
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.stages.train import check, train_here

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("ddp", "fsdp")
TINY = ["weights=scratch", "shape.layers=2", "shape.width=32", "shape.heads=2", "shape.context=128", "train.threads=1"]
TINY += ["train.precision=fp32", "train.lr=1e-4", "train.batch_size=9", "train.micro_batch_tokens=150"]
TINY += ["train.max_steps=9"]  # an epoch of the classifier's is 7
CASES = {
    "classify, full": ("classify", ["train.method=full"]),
    "classify, last block": ("classify", ["train.method=last-blocks", "train.last_blocks=1"]),
    "classify, LoRA": ("classify", ["train.method=lora"]),
    "instruct, full": ("instruct", []),
    "instruct, LoRA": ("instruct", ["train.method=lora"]),
    "seq2seq, full": ("seq2seq", []),
    "pretrain, full": ("pretrain", []),
    "pretrain, checkpoint_blocks": ("pretrain", ["train.checkpoint_blocks=true"]),
}
WORKER = """
import sys
from pathlib import Path
from finetune.run import Run
from finetune.stages.train import check, train_here
for folder in sys.argv[1:]:
    run = Run.at(Path(folder))
    assert train_here(run.recipe(), run).processes == 2
"""


def write_data(folder: Path) -> dict[str, str]:
    """A few rows for each task, of lengths that differ."""
    words = ["win", "cash", "prize", "call", "free", "now", "see", "home", "lunch", "ok", "love", "later"]
    texts = [" ".join(words[(7 * n + k * k) % 12] for k in range(1 + n % 8)) + f" {n}" for n in range(79)]
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{t},{n % 2}\n" for n, t in enumerate(texts)))
    records = [{"instruction": f"Say {t}.", "input": "", "output": words[n % 12]} for n, t in enumerate(texts)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"{t}\t{t.upper()}\n" for t in texts))
    (folder / "text.txt").write_text("\n\n".join(" ".join(texts[n:] + texts[:n]) for n in range(8)))
    names = {"classify": "rows.csv", "instruct": "pairs.jsonl", "seq2seq": "pairs.tsv", "pretrain": "text.txt"}
    return {task: str(folder / name) for task, name in names.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of each training, by case and way: "one" in this process, the others in two."""
    folder = tmp_path_factory.mktemp("parallel")
    data, runs = write_data(folder), {}
    for number, (case, (pipeline, settings)) in enumerate(CASES.items()):
        request = make_recipe(pipeline, [*TINY, *settings], {"data": data[pipeline]})
        run, recipe = open_run(request, folder, f"one-{number}")
        execute(run, recipe, load_pipeline(pipeline).stages, until="prepare")
        recipe = run.recipe()
        for way in WAYS:
            runs[case, way] = folder / f"{way}-{number}"
            shutil.copytree(run.directory, runs[case, way])
            chosen = recipe.model_dump(mode="json")
            chosen["train"]["parallel"] = way
            (runs[case, way] / "recipe.json").write_text(json.dumps(chosen))
        runs[case, "one"] = run.directory
        train_here(recipe, run)
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    two = [str(path) for (_, way), path in runs.items() if way != "one"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(worker), *two],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if line.startswith("[rank"))
    return runs


def steps_of(directory: Path) -> tuple[list[dict], list[float]]:
    lines = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], [
        line["validation"]["log_loss"] for line in lines if "validation" in line
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(trained, case, way):
    one, two = trained[case, "one"], trained[case, way]
    (steps, validated), (others, validated_too) = steps_of(one), steps_of(two)
    assert len(steps) >= 6 and [line["rows"] for line in steps] == [line["rows"] for line in others]
    if case.startswith("classify"):
        assert min(line["rows"] for line in steps) == 1  # one of the processes has no row
    for key in ("loss", "grad_norm", "lr"):
        assert [line[key] for line in others] == pytest.approx([line[key] for line in steps], rel=1e-5), key
    assert validated_too == pytest.approx(validated, rel=1e-5)
    last = f"checkpoints/step-{len(steps):08d}"
    weights, expected = (load_file(path / last / "weights.safetensors") for path in (two, one))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith("qkv.bias"):  # the keys' part of it has no gradient but rounding
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-5, msg=name)
    moments, expected = (load_file(path / last / "optimizer.safetensors") for path in (two, one))
    assert {name: value.shape for name, value in moments.items()} == {n: v.shape for n, v in expected.items()}


def test_one_process_goes_on_where_two_with_divided_weights_stopped(trained, tmp_path):
    """A checkpoint holds whole tensors, however they were divided: the last steps give the same numbers."""
    for way in ("one", "fsdp"):
        shutil.copytree(trained["classify, full", way], tmp_path / way)
        last = sorted((tmp_path / way / "checkpoints").glob("step-*"))[-1]
        assert json.loads((last / "state.json").read_text())["identity"]["processes"] == {"one": "1", "fsdp": "2"}[way]
        shutil.rmtree(last)  # the checkpoint before it is the newest
    found = {way: train_here(Run.at(tmp_path / way).recipe(), Run.at(tmp_path / way)) for way in ("one", "fsdp")}
    assert found["one"].steps == found["fsdp"].steps and found["fsdp"].processes == 1
    (one, _), (two, _) = (steps_of(tmp_path / way) for way in ("one", "fsdp"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)


def test_muon_is_refused_where_matrices_are_divided():
    muon = Recipe.model_validate({"task": "classify", "train": {"parallel": "fsdp", "optimizer": "muon"}})
    with pytest.raises(RecipeError, match="Muon needs whole"):
        check(muon, 2)

"""The list of runs, and pruning: what a finished run, its export and a stopped run need stays."""

import json
import shutil
from pathlib import Path

from finetune.files import try_lock


def size(directory):
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def steps(run):
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_runs_are_listed_and_pruned_of_what_nothing_needs(finetune, toy_copy):
    best = f"step-{json.loads((toy_copy / 'checkpoints' / 'best.json').read_text())['step']:08d}"
    for name in ("step-00000001", "step-00000002"):  # what a longer training keeps beside the best
        shutil.copytree(toy_copy / "checkpoints" / best, toy_copy / "checkpoints" / name)
    stopped = Path(shutil.copytree(toy_copy, toy_copy.parent / "stopped"))
    for path in [*stopped.glob("stages/0[4-9]-*.json")]:
        path.unlink()
    foreign = toy_copy.parent / "foreign"
    foreign.mkdir()
    (foreign / "recipe.json").write_text("[]")

    done = finetune("runs")
    assert done.status == 0, done.err
    evaluation = json.loads((toy_copy / "eval.json").read_text())["headline"]
    rows = {line.split()[0]: line for line in done.out.splitlines() if line}
    assert "classify" in rows["spam-classifier"] and "finished" in rows["spam-classifier"]
    assert f"F1 {100 * evaluation['value']:.1f} %" in rows["spam-classifier"].replace("\u00a0", " ")
    assert "stopped before train" in rows["stopped"] and "unreadable" in rows["foreign"]
    spare = [name for name in steps(toy_copy) if name != best]
    assert (
        f"--prune frees {sum(size(toy_copy / 'checkpoints' / name) for name in spare) / 1e6:.0f} MB"
        in done.out.replace("\u00a0", " ")
    )

    assert finetune("runs", "--prune").status == 2, "nobody answers"
    assert finetune("runs", "--yes").status == 2
    before = steps(stopped)
    with open(toy_copy / ".lock", "a+") as lock:
        assert try_lock(lock)
        assert finetune("runs", "--prune", "--yes").status == 0
        assert steps(toy_copy) == before, "another process uses the run"
    done = finetune("runs", "--prune", "--yes")
    assert done.status == 0 and f"spam-classifier: {', '.join(spare)}, " in done.out
    assert steps(toy_copy) == [best] and steps(stopped) == before
    assert "nothing to free" in finetune("runs", "--prune", "--yes").out

    done = finetune("run", toy_copy / "recipe.json", "--name", "spam-classifier")
    assert done.status == 0 and "nothing left to do" in done.out, done.err
    assert finetune("export", toy_copy, "--out", "again").status == 0
    assert finetune("runs", "--prune", "extra").status == 2


def test_without_runs_the_error_says_how_to_make_one(finetune):
    done = finetune("runs")
    assert done.status == 2 and "no runs here" in done.err and "finetune run PIPELINE" in done.err

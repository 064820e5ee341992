"""One process = two with whole models (DDP) = two with divided ones (FSDP2): losses, gradient norms and weights.

Evaluations, scored files and filled tables are equal to the last bit. All work of two processes is done by one pair of
them. Batches are ragged: in a step of one row, one process has none.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.commands.bundle import score_file, task_module
from finetune.errors import RecipeError
from finetune.execution import execute, open_run
from finetune.pipeline import load_pipeline, make_recipe
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.stages.train import check, train_here
from finetune.tasks.classify import audit, bundle
from finetune.tasks.tag import predict as tag_predict

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("ddp", "fsdp")
TINY = ["weights=scratch", "shape.layers=2", "shape.width=32", "shape.heads=2", "shape.context=128", "train.threads=1"]
TINY += ["train.precision=fp32", "train.lr=1e-4", "train.batch_size=9", "evaluate.resamples=100"]
EPOCH = ["train.micro_batch_tokens=150", "train.max_steps=8"]  # an epoch of the classifier's has 7
STEPS = ["train.micro_batch_tokens=300", "train.max_steps=4"]
CASES = {
    "classify, full": ("classify", [*EPOCH, "train.method=full"]),
    "classify, last block": ("classify", [*EPOCH, "train.method=last-blocks", "train.last_blocks=1"]),
    "classify, LoRA": ("classify", [*EPOCH, "train.method=lora"]),
    "instruct, full": ("instruct", STEPS),
    "instruct, LoRA": ("instruct", [*STEPS, "train.method=lora", "instruct.max_new_tokens=8"]),
    "seq2seq, full": ("seq2seq", [*STEPS, "seq2seq.max_new_tokens=8"]),
    "pretrain, full": ("pretrain", STEPS),
    "pretrain, checkpoint_blocks": (
        "pretrain",
        [*STEPS, "train.checkpoint_blocks=true", "pretrain.packed_attention=masked"],
    ),
}
SHORT = ["train.max_steps=2"]  # of one process; the evaluation is what two do
EVALUATED = {
    "classify, full": None,  # trained above
    "instruct, LoRA": None,
    "seq2seq, full": None,
    "pretrain, full": None,
    "many labels": ("classify", [*SHORT, "classify.labels=many", "columns.label=several"]),
    "tags": ("tagger", SHORT),
    "masked words": ("pretrain", [*SHORT, "pretrain.objective=masked"]),
}
BUNDLES = ("classifier", "tagger")
ROWS = {"one row": 1, "a row more than a chunk": 5, "chunks that one process has more of": 19}  # 4 rows in a chunk
WORKER = """
import json
import sys
from pathlib import Path
import torch.distributed as dist
import numpy as np
from finetune.commands.bundle import score_file, task_module
from finetune.files import write_nothing
from finetune.run import Run
from finetune.stages import evaluate, train
from finetune.tasks.classify import audit, bundle
from finetune.tasks.tag import predict as tag_predict
from finetune.training.ranks import end, part, rank
from finetune.training.sharing import follow, lead, share, together

if rank() > 0:
    write_nothing()
work = json.loads(Path(sys.argv[1]).read_text())
exchanges, exchange = [], dist.all_gather_object
dist.all_gather_object = lambda *given: exchanges.append(given) or exchange(*given)
for folder in work["train"]:
    run = Run.at(Path(folder))
    assert train.train_here(run.recipe(), run).processes == 2
for folder in work["evaluate"]:
    run = Run.at(Path(folder))
    exchanges.clear()
    (evaluate.evaluate_here if rank() > 0 else evaluate.run)(run.recipe(), run)
    assert exchanges, folder
bundle.CHUNK = tag_predict.CHUNK = 4
for own, source, target in work["tables"]:
    task, directory = task_module(Path(own), "predict")
    exchanges.clear()
    if rank() > 0:
        task.help_predict(directory)
    else:
        list(task.predict_table(directory, Path(source), Path(target), None, None, True))
    assert exchanges, target
for own, source, target in work["scored"]:
    exchanges.clear()
    lines = score_file(own, source, "", "", "")
    assert exchanges, target
    if rank() == 0:
        Path(target).write_text(json.dumps(lines))
run = Run.at(Path(work["audited"]))
states = audit.text_states(run.recipe(), run)
if rank() == 0:
    np.save(run.path("states.npy"), states)

for count in range(5):
    batches, own, done = [[n] * n for n in range(count)], [], []
    def compute(batch):
        own.append(len(batch))
        return share([[n] for n in batch], sum)  # not shared again
    for evenly in (False, True):
        with together(evenly):
            assert share(batches, compute, done.append) == batches and done == batches, (count, done)
        extra = [count - 1] if evenly and count % 2 and rank() else []
        assert own == [*range(rank(), count, 2), *extra], (count, own)
        own.clear(), done.clear()
    if rank() > 0:
        follow(sum)
    else:
        assert list(lead(["sum"], batches, lambda item: [2, *item], sum)) == [(b, 2 + sum(b)) for b in batches]
part()
end(0)
"""


def write_data(folder: Path) -> dict[str, str]:
    """A few rows for each task, of lengths that differ."""
    words = ["win", "cash", "prize", "call", "free", "now", "see", "home", "lunch", "ok", "love", "later"]
    texts = [" ".join(words[(7 * n + k * k) % 12] for k in range(1 + n % 8)) + f" {n}" for n in range(79)]
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{t},{n % 2}\n" for n, t in enumerate(texts)))
    records = [{"instruction": f"Say {t}.", "input": "", "output": words[n % 12]} for n, t in enumerate(texts)]
    several = ["a;b", "b", "a"]
    (folder / "several.csv").write_text(
        "text,several\n" + "".join(f"{t},{several[n % 3]}\n" for n, t in enumerate(texts))
    )
    sentences = ("\n".join(f"{word} {'B-x' if word in words[:3] else 'O'}" for word in text.split()) for text in texts)
    (folder / "tags.conll").write_text("\n\n".join(sentences) + "\n")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"{t}\t{t.upper()}\n" for t in texts))
    (folder / "text.txt").write_text("\n\n".join(" ".join(texts[n:] + texts[:n]) for n in range(8)))
    names = {"classify": "rows.csv", "instruct": "pairs.jsonl", "seq2seq": "pairs.tsv", "pretrain": "text.txt"}
    names |= {"many labels": "several.csv", "tags": "tags.conll", "masked words": "text.txt"}
    return {task: str(folder / name) for task, name in names.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy):
    """The folder of each training and evaluation, by case and way: "one" in this process, the others in two.

    Also the bundles with which two processes fill tables and score labelled files in the folder.
    """
    folder = tmp_path_factory.mktemp("parallel")
    data, runs = write_data(folder), {}
    for number, (case, (pipeline, settings)) in enumerate((CASES | {k: v for k, v in EVALUATED.items() if v}).items()):
        request = make_recipe(pipeline, [*TINY, *settings], {"data": data.get(case) or data[pipeline]})
        run, recipe = open_run(request, folder, f"one-{number}")
        stages = load_pipeline(pipeline).stages
        execute(run, recipe, stages, until="prepare")
        recipe = run.recipe()
        for way in WAYS if case in CASES else ():
            runs[case, way] = folder / f"{way}-{number}"
            shutil.copytree(run.directory, runs[case, way])
            chosen = recipe.model_dump(mode="json")
            chosen["train"]["parallel"] = way
            (runs[case, way] / "recipe.json").write_text(json.dumps(chosen))
        runs[case, "one"] = run.directory
        until = {"tags": "export"}.get(case, "evaluate" if case in EVALUATED else "train")
        execute(run, recipe, stages, until=until)
        if case in EVALUATED:
            runs[case, "evaluated"] = folder / f"evaluated-{number}"
            shutil.copytree(run.directory, runs[case, "evaluated"])
            (runs[case, "evaluated"] / "eval.json").unlink()
    bundles = {"classifier": toy.run / "export" / "hf", "tagger": runs["tags", "one"] / "export" / "hf"}
    spam = Path(data["classify"]).read_text().replace(",0\n", ",ham\n").replace(",1\n", ",spam\n")
    (folder / "spam.csv").write_text(spam)
    labelled = {"classifier": str(folder / "spam.csv"), "tagger": data["tags"]}
    work = {
        "train": [str(path) for (_, way), path in runs.items() if way in WAYS],
        "evaluate": [str(path) for (_, way), path in runs.items() if way == "evaluated"],
        "tables": [
            [str(bundles[kind]), str(folder / f"{name}.csv"), str(folder / f"{name}, {kind}, two.csv")]
            for kind in BUNDLES
            for name in ROWS
        ],
        "scored": [[str(bundles[kind]), labelled[kind], str(folder / f"{kind}, two.json")] for kind in BUNDLES],
        "audited": str(runs["classify, full", "one"]),
    }
    for name, count in ROWS.items():
        texts = ["" if n in (4, 5, 6, 7, 9) and count > 5 else f"win cash {n}" for n in range(count)]
        rows = "".join(f"{n},{text}\n" for n, text in enumerate(texts))
        (folder / f"{name}.csv").write_text("number,text\n" + rows)
    (folder / "work.json").write_text(json.dumps(work))
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(worker), str(folder / "work.json")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith(("[rank", "terminate", "Fatal"))]
    assert done.returncode == 0, "\n".join(said)
    return SimpleNamespace(runs=runs, bundles=bundles, labelled=labelled, folder=folder)


def steps_of(directory: Path) -> tuple[list[dict], list[float]]:
    lines = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], [
        line["validation"]["log_loss"] for line in lines if "validation" in line
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(trained, case, way):
    one, two = trained.runs[case, "one"], trained.runs[case, way]
    (steps, validated), (others, validated_too) = steps_of(one), steps_of(two)
    assert len(steps) >= 4 and [line["rows"] for line in steps] == [line["rows"] for line in others]
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


def without_seconds(value):
    """The same without times, and its numbers as far as a report shows them: sums in another order round otherwise."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: without_seconds(own) for key, own in value.items() if key != "seconds"}
    return [without_seconds(own) for own in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", EVALUATED)
def test_two_processes_evaluate_as_one(trained, case):
    one, two = trained.runs[case, "one"], trained.runs[case, "evaluated"]
    expected, found = (without_seconds(json.loads((path / "eval.json").read_text())) for path in (one, two))
    assert found == expected


@pytest.fixture
def one_thread():
    """As each of the two processes has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", BUNDLES)
@pytest.mark.parametrize("name", ROWS)
def test_two_processes_fill_a_table_as_one(trained, name, kind, tmp_path, monkeypatch):
    task, directory = task_module(trained.bundles[kind], "predict")
    for module in (bundle, tag_predict):
        monkeypatch.setattr(module, "CHUNK", 4)
    list(task.predict_table(directory, trained.folder / f"{name}.csv", tmp_path / "one.csv", None, None, True))
    found = (trained.folder / f"{name}, {kind}, two.csv").read_text()
    assert found == (tmp_path / "one.csv").read_text() and len(found.splitlines()) == 1 + ROWS[name]
    assert kind == "classifier" or '""kind"": ""x""' in found  # names were found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", BUNDLES)
def test_two_processes_score_a_file_as_one(trained, kind):
    lines = score_file(str(trained.bundles[kind]), trained.labelled[kind], "", "", "")
    assert json.loads((trained.folder / f"{kind}, two.json").read_text()) == lines and len(lines) > 3


@pytest.mark.usefixtures("one_thread")
def test_two_processes_compute_the_states_for_the_audit_as_one(trained):
    run = Run.at(trained.runs["classify, full", "one"])
    expected, found = audit.text_states(run.recipe(), run), np.load(run.path("states.npy"))
    assert len(found) == 79 and found.tobytes() == expected.tobytes()


def test_one_process_goes_on_where_two_with_divided_weights_stopped(trained, tmp_path):
    """A checkpoint holds whole tensors, however they were divided: the last steps give the same numbers."""
    for way in ("one", "fsdp"):
        shutil.copytree(trained.runs["classify, full", way], tmp_path / way)
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

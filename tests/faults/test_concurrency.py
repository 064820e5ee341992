"""Two processes that do the same at the same time: one does it, the other waits, takes another name or says so."""

import io
import threading
import zipfile
from hashlib import sha256

import pytest

from finetune import execution
from finetune.errors import RunError
from finetune.execution import execute, open_run
from finetune.hub import cache, fetch
from finetune.hub.registry import DataRow, WeightsRow
from finetune.pipeline import load_pipeline

STAGES = load_pipeline("classify").stages


@pytest.fixture
def other_request(tiny_request):
    """The same run with another batch size."""
    return tiny_request.model_copy(update={"train": tiny_request.train.model_copy(update={"batch_size": 4})})


def interleave(monkeypatch, while_resolving) -> None:
    """Call this once, after the first request looked whether its run exists and before it writes the recipe."""
    resolve, called = execution.resolve, []

    def slow(request):
        if not called:
            called.append(1)
            while_resolving()
        return resolve(request)

    monkeypatch.setattr(execution, "resolve", slow)


def test_a_finished_run_of_another_process_keeps_its_name(tmp_path, monkeypatch, tiny_request, other_request):
    def other() -> None:
        run, recipe = open_run(other_request, tmp_path, "x")
        execute(run, recipe, STAGES, until="prepare")

    interleave(monkeypatch, other)
    run, _ = open_run(tiny_request, tmp_path, "x")
    assert run.name == "x-2" and execution.Run.at(tmp_path / "x").recipe().train.batch_size == 4


def test_the_same_run_twice_is_one_run(tmp_path, monkeypatch, tiny_request, capsys):
    interleave(monkeypatch, lambda: open_run(tiny_request, tmp_path, "x"))
    run, _ = open_run(tiny_request, tmp_path, "x")
    assert run.name == "x" and "x: resuming" in capsys.readouterr().out
    with run.locked(), pytest.raises(RunError, match="another process is using this run"):
        execute(run, run.recipe(), STAGES)


def test_a_recipe_that_another_process_replaced_is_not_run(tmp_path, tiny_request, other_request):
    run, recipe = open_run(tiny_request, tmp_path, "x")
    open_run(other_request, tmp_path, "x")  # nothing was prepared yet, so it begins the run anew
    with pytest.raises(RunError, match="another process has begun this run with other settings"):
        execute(run, recipe, STAGES, until="download")
    assert not run.finished("download")


def test_an_export_and_a_report_wait_for_nobody_and_say_who_is_there(toy, finetune):
    from finetune.run import Run

    with Run(toy).locked():
        for command in ("export", "report"):
            done = finetune(command, toy)
            assert done.status == 2 and "another process is using this run" in done.err
        assert finetune("predict", toy, "free cash").status == 0  # reading needs no lock


def together(work, count: int = 4) -> None:
    """Do this in several threads at once; a lock on a file holds between them as between processes."""
    ready, errors = threading.Barrier(count), []

    def one(number: int) -> None:
        ready.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def test_weights_that_several_ask_for_are_downloaded_once(hub, capsys):
    row = WeightsRow(
        name="tiny",
        repo="someone/model",
        revision="a" * 40,
        layers=1,
        width=4,
        heads=1,
        files={"model.safetensors": {}, "vocab.json": {}, "merges.txt": {}},
    )
    fetch.network_available()
    hub.delay_seconds = 0.05
    found = []
    together(lambda _: found.append(fetch.get_weights(row)))
    assert len(set(found)) == 1 and len(found) == 4
    assert hub.gets("model.safetensors") == 1 and "waiting for it" in capsys.readouterr().out


def test_a_data_set_that_several_ask_for_is_downloaded_once(hub, tmp_path):
    content = b"ham\thello\n" * 1000
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("Messages", content)
    hub.plain["messages.zip"] = buffer.getvalue()
    row = DataRow(
        name="messages",
        format="tsv",
        files={"Messages": {"bytes": len(content), "sha256": sha256(content).hexdigest()}},
        archive={"url": f"{hub.url}/plain/messages.zip", "member": "Messages"},
    )
    fetch.network_available()
    hub.delay_seconds = 0.05
    found = []
    together(lambda _: found.append(fetch.get_data(row).read_bytes()))
    assert found == [content] * 4 and hub.gets("messages.zip") == 1


def test_no_recorded_hash_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    names = iter(range(10**6))
    monkeypatch.setattr("finetune.files.temporary_path", lambda path: path.with_name(f".{path.name}.{next(names)}"))
    together(lambda number: [cache.record(f"a/{number}", "main", str(part), file) for part in range(5)])
    assert len(cache._records()) == 20


def test_a_cache_that_cannot_be_written_locks_nothing(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    with cache.one_at_a_time("anything"):
        assert (tmp_path / "home").read_text() == "a file"

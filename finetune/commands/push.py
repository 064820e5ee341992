"""The command ``push``: a finished run's export on the Hugging Face hub, compared after the upload."""

import json
from pathlib import Path

from finetune.console import say
from finetune.errors import RunError, listed, shorten
from finetune.files import damage
from finetune.hub import push as hub
from finetune.run import Run

LONG = 24  # characters; shorter texts may occur in a file by chance
WRITTEN = (".json", ".md", ".txt", ".jinja", "")  # text files; the vocabulary comes from the base model
VOCABULARY = ("vocab.json", "merges.txt", "tokenizer.json")


def push(directory: Path, repo: str, public: bool, dry_run: bool) -> str:
    """Push the run's export/hf. Returns a sentence that says what was done. dry_run: list the files and send nothing.

    Raises RunError if a file contains a text of the run's data or differs after the upload, and FetchError if the hub
    cannot be reached.
    """
    hub.check_repo(repo)
    run = Run.at(directory)
    run.record("export")  # or RunError: the run is not finished
    folder = run.path("export", "hf")
    if not folder.exists():
        raise RunError(
            f"{directory}: has no export of the model to push",
            got="another winner than the model, in export/bundle"
            if run.path("export", "bundle").exists()
            else "no export/hf",
            do=f"Export it: finetune export {directory} --part model",
        )
    if why := damage(folder):
        raise RunError(f"{directory}: the export was changed", got=why, do="Export the run again.")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = texts_in(folder, files, run)
    if found:
        raise RunError(
            f"{directory}: files of the export contain texts of your data",
            got=listed(found),
            do="Remove these lines, or export the run again.",
        )
    for name in files:
        say(f"{(folder / name).stat().st_size:>14,}  {name}")
    kind = "public" if public else "private"
    if dry_run:
        return f"{len(files)} files would be uploaded to {repo}, {kind}; nothing was sent"
    address, commit = hub.upload(folder, files, repo, not public, f"gpt2-finetune: {run.name}")
    wrong = hub.differing(folder, files, repo, commit)
    if wrong:
        raise RunError(f"{address}: uploaded files differ from the export", got=listed(wrong), do="Push the run again.")
    return f"{address} ({kind}), commit {commit[:12]}: {len(files)} files uploaded, and downloaded again unchanged"


def texts_in(folder: Path, files: list[str], run: Run) -> list[str]:
    """The files of an export that contain a text of the run's data, each with the start of the text."""
    contents = {
        name: (folder / name).read_text(encoding="utf-8", errors="replace")
        for name in files
        if Path(name).suffix in WRITTEN and name not in VOCABULARY
    }
    found: dict[str, str] = {}
    for split in ("train", "val", "test"):
        path = run.path("data", f"{split}.jsonl")
        if not path.exists():
            continue
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                for text in _texts(json.loads(line)):
                    own = text.strip()
                    if len(own) >= LONG:
                        forms = (own, json.dumps(own)[1:-1], json.dumps(own, ensure_ascii=False)[1:-1])
                        found |= {n: own for n, content in contents.items() if any(f in content for f in forms)}
    return [f"{name}: {shorten(text)}" for name, text in found.items()]


def _texts(value: object) -> list[str]:
    """Every string value in a record."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inside for text in _texts(part)]

"""Damage the files that the tool reads, by seed, and read them: a clear error, or what the file really says.

    python tests/faults/campaigns/fuzz.py --mutations 10000        of each kind of file; some minutes each
    python tests/faults/campaigns/fuzz.py --mutations 50 --only tables recipes

A mutation holds if reading ends within SECONDS and a gigabyte, in a FinetuneError or a value, writes nothing outside its
folder, and, where the file has a checksum or a strict form, the value is that of the undamaged file. A failure names
the kind and the seed, which repeat it.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import record

sys.path.insert(0, str(record.ROOT))
SECONDS, BYTES, CHUNK = 5, 1 << 30, 250
WORDS = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b'"',
    b"'",
    b",",
    b"\t",
    b"\n",
    b"\r",
    b"{",
    b"[",
    b"}",
    b"]",
    b"null",
    b"NaN",
)
WORDS += (
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"../../x",
    b"/etc/passwd",
    b"<script>",
    b"{{7*7}}",
    b"=1+1",
    b"\x1b[2J",
)
WORDS += ("\u202e".encode(), "\u2028".encode(), b"[" * 5000, b'{"a":' * 2000, b"9" * 5000, b"a" * 70_000)
VALUES = (None, True, -1, 0, 2**60, 1e308, "", "x", "../x", "\0", [], {}, [[]], {"a": None}, "\ud83d", ["a"] * 500)


@dataclass(frozen=True)
class Kind:
    """Files of one kind: which are damaged, how they are read, and whether damage may change the value."""

    files: tuple[str, ...]
    read: Callable[[Path], object]
    may_differ: bool
    header_only: bool = False  # damage a safetensors file's header: bytes of tensors have no checksum


def mutate(content: bytes, draw: random.Random, header_only: bool) -> bytes:
    """One to three changes of bytes, or one of a JSON value."""
    if draw.random() < 0.4:
        with contextlib.suppress(ValueError, RecursionError):
            return mutate_json(json.loads(content), draw)
    end = min(len(content), 8 + int.from_bytes(content[:8], "little")) if header_only else len(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(end + 1)
        length = draw.choice((1, 1, 2, 8, 64, 1000))
        how = draw.choice(("flip", "delete", "repeat", "cut", "insert", "insert", "overwrite"))
        part = content[at : at + length]
        if how == "flip" and part:
            part = bytes([part[0] ^ 1 << draw.randrange(8)]) + part[1:]
            content = content[:at] + part + content[at + length :]
        elif how == "delete":
            content = content[:at] + content[at + length :]
        elif how == "repeat":
            content = content[:at] + part * draw.choice((2, 3, 50)) + content[at + length :]
        elif how == "cut":
            content = content[:at]
        elif how == "insert":
            content = content[:at] + draw.choice(WORDS) + content[at:]
        else:
            word = draw.choice(WORDS)
            content = content[:at] + word + content[at + len(word) :]
    return content


def mutate_json(value: object, draw: random.Random) -> bytes:
    """The JSON of a value with another leaf, without a key, or with a key more."""
    spots, stack = [], [value]
    while stack and len(spots) < 3000:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        spots += [(holder, key) for key in keys]
        stack += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    if not spots:
        return json.dumps(draw.choice(VALUES)).encode()
    holder, key = draw.choice(spots)
    how = draw.choice(("replace", "replace", "delete", "add"))
    if how == "replace":
        holder[key] = draw.choice(VALUES)
    elif how == "delete":
        del holder[key]
    elif isinstance(holder, dict):
        holder[draw.choice(("x", "", "../x", str(key).upper()))] = draw.choice(VALUES)
    else:
        holder.insert(0, draw.choice(VALUES))
    return json.dumps(value).encode("utf-8", errors="surrogatepass")


def digest_model(model: object) -> str:
    """A hash over the names and bytes of a model's tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def read_checkpoint(folder: Path) -> object:
    """Configuration, tokenizer and weights of a directory in Hugging Face's layout."""
    from finetune.checkpoints.layouts import load_directory
    from finetune.checkpoints.store import gpt_of, matching_tokenizer

    loaded = load_directory(folder)
    tokenizer = matching_tokenizer(folder, gpt_of(loaded.model).config.vocab_size)
    return digest_model(loaded.model), tokenizer.encode("free cash now \u00e9")


def read_table(folder: Path) -> object:
    """The rows of every labelled table in a folder."""
    from finetune.errors import DataError
    from finetune.tables.detect import detect_format
    from finetune.tables.readers import read_labelled

    found = []
    for path in sorted(folder.iterdir()):
        try:
            rows = read_labelled(path, "text", "label", detect_format(path).layout)
            found.append([rows.texts, rows.labels])
        except DataError as error:
            found.append(str(error))
    return found


def read_instructions(folder: Path) -> object:
    """The pairs of an instruction file."""
    from finetune.tasks.instruct.records import read_instructions
    from finetune.tasks.instruct.settings import Instruct

    return read_instructions(folder / "pairs.jsonl", Instruct())


def read_recipe(folder: Path) -> object:
    """A recipe of a run, and one in TOML."""
    from finetune.pipeline import make_recipe

    return [make_recipe(str(folder / name)).model_dump() for name in ("recipe.json", "recipe.toml")]


def read_records(folder: Path) -> object:
    """What `doctor RUN` says of a run with a damaged record."""
    from finetune.commands.check_run import examine_run

    return [str(check) for check in examine_run(folder)]


def read_bundle(folder: Path) -> object:
    """What a bundle predicts."""
    from finetune.tasks.classify.bundle import open_bundle

    labels, probabilities = open_bundle(folder).predict(["free cash now"])
    return labels, probabilities.tolist()


def read_adapter(folder: Path) -> object:
    """A model with an adapter from peft merged into it."""
    from finetune.checkpoints.sources import load

    return digest_model(load(str(folder))[0])


CHECKPOINT = "model.safetensors"
KINDS = {
    "safetensors": Kind((CHECKPOINT,), read_checkpoint, may_differ=False, header_only=True),
    "config.json": Kind(("config.json",), read_checkpoint, may_differ=True),
    "vocabularies and merges": Kind(("vocab.json", "merges.txt"), read_checkpoint, may_differ=True),
    "tables": Kind(("table.csv", "table.tsv", "table.json", "table.jsonl"), read_table, may_differ=True),
    "JSONL of instructions": Kind(("pairs.jsonl",), read_instructions, may_differ=True),
    "recipes": Kind(("recipe.json", "recipe.toml"), read_recipe, may_differ=True),
    "records of a run": Kind((), read_records, may_differ=True),
    "bundles": Kind(
        ("bundle.json", "config.json", "vocab.json", "merges.txt", CHECKPOINT), read_bundle, may_differ=False
    ),
    "adapters": Kind(("adapter_config.json", "adapter_model.safetensors"), read_adapter, may_differ=True),
}


def prepare(folder: Path) -> dict[str, Path]:
    """An undamaged folder for each kind, from two runs of a second each."""
    from finetune.cli import main

    os.environ |= {"FINETUNE_OFFLINE": "1", "FINETUNE_HOME": str(folder / "home")}
    draw = random.Random(0)
    words = {"ham": ["lunch", "home", "mum", "train"], "spam": ["win", "cash", "prize", "free"]}
    rows = [(f"{' '.join(draw.choices(words[label], k=5))} {n}", label) for n in range(30) for label in words]
    tables = folder / "tables"
    tables.mkdir()
    for ending, mark in (("csv", ","), ("tsv", "\t")):
        lines = [f"text{mark}label", *(f'"{text}"{mark}{label}' for text, label in rows)]
        (tables / f"table.{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    objects = [{"text": text, "label": label} for text, label in rows]
    (tables / "table.json").write_text(json.dumps(objects), encoding="utf-8")
    (tables / "table.jsonl").write_text("\n".join(map(json.dumps, objects)) + "\n", encoding="utf-8")
    pairs = folder / "pairs"
    pairs.mkdir()
    instructions = [{"instruction": f"Say {text}", "input": "", "output": label} for text, label in rows]
    (pairs / "pairs.jsonl").write_text("\n".join(map(json.dumps, instructions)) + "\n", encoding="utf-8")

    tiny = {"weights": "scratch", "shape.layers": 1, "shape.width": 16, "shape.heads": 2, "shape.context": 64}
    tiny |= {"train.epochs": 1, "train.threads": 1, "evaluate.resamples": 100}
    options = [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    os.chdir(folder)
    run(main, "classify", tables / "table.csv", "--name", "toy", *options)
    toy = folder / "runs" / "toy"
    plain = folder / "plain"
    plain.mkdir()
    for name in (CHECKPOINT, "config.json", "vocab.json", "merges.txt"):
        shutil.copy(toy / "export" / "hf" / name, plain)
    lora = {key: value for key, value in tiny.items() if not key.startswith("shape.")}
    lora |= {"weights": plain, "train.method": "lora"}
    options = [word for key, value in lora.items() for word in ("--set", f"{key}={value}")]
    run(main, "classify", tables / "table.csv", "--name", "lora", *options)
    run(main, "export", "runs/lora", "--format", "peft", "--out", folder / "adapter")
    (folder / "adapter" / "MANIFEST.json").unlink(missing_ok=True)
    recipes = folder / "recipes"
    recipes.mkdir()
    shutil.copy(toy / "recipe.json", recipes)
    run(main, "cp", "spam-classifier", recipes / "recipe.toml")
    return {
        "safetensors": plain,
        "config.json": plain,
        "vocabularies and merges": plain,
        "tables": tables,
        "JSONL of instructions": pairs,
        "recipes": recipes,
        "records of a run": toy,
        "bundles": toy / "export" / "hf",
        "adapters": folder / "adapter",
    }


def run(main: Callable[[], None], *arguments: object) -> None:
    """A command of the tool in this process."""
    sys.argv = ["finetune", *map(str, arguments)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(said.getvalue()) from None


def judge(kind: Kind, folder: Path, expected: object) -> str:
    """What is wrong with how a damaged folder was read; nothing if it held."""
    from finetune.errors import FinetuneError

    before = time.monotonic()
    try:
        found = kind.read(folder)
    except FinetuneError as error:
        if not str(error).strip():
            return "an error without words"
    except MemoryError:
        return "more than a gigabyte"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:120]} in {Path(last.filename).name}, {last.name}"
    else:
        if not kind.may_differ and found != expected:
            return "another value without an error"
    return f"took {time.monotonic() - before:.1f} s" if time.monotonic() - before > SECONDS else ""


def child(kind: Kind, source: Path, seeds: range, name: str, expected: object, out: int) -> None:
    """Try the seeds in this (forked) process; a line for each goes into the pipe."""
    place = Path(tempfile.mkdtemp())
    os.chdir(place)
    folder = place / "files"
    shutil.copytree(source, folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    outside: list[str] = []
    sys.addaudithook(lambda event, given: _watch(event, given, str(place), outside))
    files = kind.files or tuple(str(path.relative_to(source)) for path in sorted(source.rglob("*.json")))
    nothing = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with os.fdopen(out, "w") as lines, nothing[0], nothing[1]:
        for seed in seeds:
            draw = random.Random(f"{name} {seed}")
            file = draw.choice(files)
            (folder / file).write_bytes(mutate((source / file).read_bytes(), draw, kind.header_only))
            wrong = judge(kind, folder, expected)
            wrong = wrong or (f"wrote outside: {outside[0]}" if outside else "")
            outside.clear()
            shutil.copy(source / file, folder / file)
            lines.write(json.dumps([seed, file, wrong]) + "\n")
            lines.flush()
    shutil.rmtree(place, ignore_errors=True)


def _watch(event: str, given: tuple, place: str, outside: list[str]) -> None:
    if event == "open":
        path, mode, flags = given
        writes = flags & (os.O_WRONLY | os.O_RDWR) if isinstance(flags, int) else "r" not in (mode or "r")
    else:
        path, writes = given[0] if given else "", event in ("os.mkdir", "os.rename", "os.remove", "os.symlink")
    if writes and isinstance(path, str) and not str(Path(path).absolute()).startswith((place, "/dev/")):
        outside.append(f"{event} {path}")


def campaign(name: str, kind: Kind, source: Path, mutations: int, first: int) -> record.Row:
    """Fork a child for each chunk of seeds; one that hangs or dies is a failure of its seed."""
    expected = kind.read(source)
    failures, seed, last, held = [], first, first + mutations, 0
    while seed < last:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            status = 1
            try:
                child(kind, source, range(seed, min(seed + CHUNK, last)), name, expected, writer)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        seed, more = _follow(reader, pid, seed, name)
        failures += more[1]
        held += more[0]
    return record.Row(
        "Damaged files",
        name,
        "a clear error or the value in the file, within 5 s and a gigabyte, and nothing written elsewhere",
        mutations,
        held,
        "python tests/faults/campaigns/fuzz.py --mutations 10000 --keep",
        tuple(failures),
    )


def _follow(reader: int, pid: int, seed: int, name: str) -> tuple[int, tuple[int, list[str]]]:
    """Read a child's lines; the next seed, how many held, and what did not."""
    import select

    held, failures, rest = 0, [], b""
    while True:
        ready = select.select([reader], [], [], 12 * SECONDS)[0]  # processor time is shared
        data = os.read(reader, 1 << 16) if ready else b""
        if not data:
            if not ready:
                os.kill(pid, 9)
            status = os.waitpid(pid, 0)[1]
            os.close(reader)
            if status:
                failures.append(f"{name}, seed {seed}: {'hung' if not ready else f'the process died ({status})'}")
                seed += 1
            return seed, (held, failures)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            at, file, wrong = json.loads(line)
            seed, held = at + 1, held + (not wrong)
            if wrong:
                failures.append(f"{name}, seed {at}, {file}: {wrong}")


def main() -> None:
    """Read the options and damage the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND")
    parser.add_argument("--keep", action="store_true", help="write the rows into record.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = prepare(Path(folder))
        rows = []
        for name in arguments.only:
            row = campaign(name, KINDS[name], sources[name], arguments.mutations, arguments.seed)
            print(f"{name}: held {row.held:,} of {row.tried:,}", flush=True)
            for failure in row.failures[:20]:
                print(f"  {failure}", flush=True)
            rows.append(row)
        os.chdir(record.ROOT)
    record.finish(rows, arguments.keep)


if __name__ == "__main__":
    main()

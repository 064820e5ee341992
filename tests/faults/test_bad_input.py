"""Whatever a person gets wrong: exit status 2, one line that says what to do, no traceback, nothing lost."""

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TRAIN = ["--weights", "random-bytes", "--until", "prepare"]
ROWS = [(f"{('lunch at home', 'win a prize')[i % 2]} {'x' * (i // 2)}", ("ham", "spam")[i % 2]) for i in range(40)]
TABLE = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
HEAD, LATIN = "text,label\n", "text,label\n" + "ok,ham\n" * 3000 + "caf\xe9,ham\nb,spam\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files of every kind of wrong, a run, and a bundle of random weights with the labels ham and spam."""
    import torch

    from finetune.checkpoints.store import write_checkpoint
    from finetune.models.gpt import GPT, GPTConfig
    from finetune.models.heads import Classifier
    from finetune.tokenizer import Tokenizer

    place = tmp_path_factory.mktemp("place")
    three = "text,label\n" + "".join(f"word{'x' * (i // 3)},{'abc'[i % 3]}\n" for i in range(60))
    texts = {
        "good.csv": TABLE,
        "three.csv": three,
        "empty.csv": "",
        "header.csv": HEAD,
        "one_row.csv": HEAD + "hi,ham\n",
        "one_class.csv": HEAD + "hi,ham\nho,ham\n",
        "two_rows.csv": HEAD + "hi,ham\nho,spam\n",
        "wide.csv": HEAD + "hi,ham\nho,spam\na, b,ham\nc,spam\n",
        "narrow.csv": HEAD + "hi,ham\nho\n",
        "quote.csv": HEAD + 'hi,ham\n"he\nllo",ham\n"ho,spam\nhu,ham\n',
        "columns.csv": "message_text,lable\nhi,ham\n",
        "twice.csv": "text,label,text\nhi,ham,ho\nhu,spam,ha\n",
        "table.xls": "PK",
        "semicolon.csv": "text;label\nhi;ham\n",
        "clash.csv": "text,p_ham\nhi,1\n",
        "unknown_labels.csv": HEAD + "hi,ham\nho,eggs\n",
        "twice.toml": 'pipeline = "classify"\npipeline = "classify"\n',
        "syntax.toml": 'pipeline = "classify\n',
        "key.toml": 'pipeline = "classify"\n[train]\nlearning_rate = 1e-4\n',
        "none.toml": "data = 'x.csv'\n",
        "odd.json": "[1, 2",
        "list.json": "[1]",
        "model.bin": "pickle",
        "file": "a file",
    }
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8", newline="\n")
    (place / "utf16.csv").write_bytes(TABLE.encode("utf-16"))
    (place / "latin1.csv").write_bytes(LATIN.encode("latin-1"))
    for name in ("folder", "folder.csv", "no_bundle", "pickles"):
        (place / name).mkdir()
    (place / "pickles" / "config.json").write_text('{"model_type": "gpt2"}')
    (place / "pickles" / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    tokenizer = Tokenizer.of_bytes()
    torch.manual_seed(0)
    model = Classifier(GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context=32, width=8, layers=1, heads=2)), 2)
    card = {
        "schema_version": 1,
        "task": "classify",
        "data_sha256": "0" * 64,
        "recipe_sha256": "0" * 64,
        "weights": {"name": "mini", "source": "", "licence": "", "sha256": {}, "fallback": True, "note": ""},
        "labels": ["ham", "spam"],
        "positive": "spam",
        "max_length": 32,
        "threshold": 0.5,
        "temperature": 1.0,
        "tokenizer_sha256": tokenizer.fingerprint(),
    }
    for name, changed in {
        "bundle": card,
        "keys": {"labels": ["ham", "spam"]},
        "labels": card | {"labels": ["a"] * 3},
        "tokenizer": card | {"tokenizer_sha256": "0" * 64},
        "list": [1],
    }.items():
        write_checkpoint(place / name, model, tokenizer, {}, {"bundle.json": json.dumps(changed)})
    return place


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """``refused(*arguments)``: the one line of an error, from the command in this process and an empty directory."""
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        lines = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2, lines
        assert 1 <= len(lines) <= 3 and lines[-1].startswith("error: "), lines
        assert not any("Traceback" in line for line in lines)
        return lines[-1]

    return run


CASES = {
    "no such file": (["classify", "{}/nothing.csv", *TRAIN], ["nothing.csv", "neither a file nor", ".csv"]),
    "no such set": (["run", "spam-classifier", "--set", "data=sms-spma"], ["'sms-spma'", "did you mean 'sms-spam'?"]),
    "directory": (["classify", "{}/folder", *TRAIN], ["folder", "a directory instead of a file"]),
    "directory.csv": (["classify", "{}/folder.csv", *TRAIN], ["folder.csv", "a directory instead of a file"]),
    "unknown file extension": (["classify", "{}/table.xls", *TRAIN], ["'.xls'", ".csv", ".tsv", "save it as CSV"]),
    "a name that is no text": (["classify", "{}/caf\udce9.csv", *TRAIN], ["not UTF-8", r"caf\udce9.csv", "Rename"]),
    "no data": (["run", "classify"], ["does not name any data", "finetune classify my.csv"]),
    "text column": (["classify", "{}/columns.csv", *TRAIN, "--label", "lable"], ["message_text", "--text NAME"]),
    "wanted column": (
        ["classify", "{}/good.csv", *TRAIN, "--text", "texts"],
        ["no column 'texts'", "text, label", "did you mean 'text'?", "--text NAME"],
    ),
    "label column": (
        ["classify", "{}/columns.csv", *TRAIN, "--text", "message_text", "--label", "label"],
        ["no column 'label'", "did you mean 'lable'?"],
    ),
    "column twice": (["classify", "{}/twice.csv", *TRAIN], ["2 columns are called 'text'", "Rename"]),
    "unknown key": (
        ["run", "spam-classifier", "--set", "train.learning_rate=1"],
        ["unknown key 'train.learning_rate'", "did you mean 'train.lr'? See: finetune show spam-cl"],
    ),
    "unknown key of classify": (
        ["classify", "{}/good.csv", "--set", "epochs=1"],
        ["'epochs'", "did you mean 'train.epochs'?", "finetune show classify"],
    ),
    "nan": (["run", "spam-classifier", "--set", "train.lr=nan"], ["train.lr", "finite", "nan"]),
    "infinity": (["run", "spam-classifier", "--set", "train.lr=inf"], ["train.lr", "finite", "inf"]),
    "no number": (["run", "spam-classifier", "--set", "train.epochs=abc"], ["train.epochs", "integer", '"abc"']),
    "half a number": (["run", "spam-classifier", "--set", "train.epochs=1.5"], ["train.epochs", "integer", '"1.5"']),
    "zero": (["run", "spam-classifier", "--set", "train.batch_size=0"], ["train.batch_size", "greater than", '"0"']),
    "out of choice": (
        ["run", "spam-classifier", "--set", "train.method=loar"],
        ["train.method", "'last-blocks'", "loar"],
    ),
    "lora without lora": (
        ["run", "spam-classifier", "--set", "train.lora_rank=4", "--set", "train.method=full"],
        ["train.lora_rank is used only by method lora", "full", "train.method=lora"],
    ),
    "no targets": (["run", "spam-classifier", "--set", "train.lora_targets=[]"], ["train.lora_targets", "at least 1"]),
    "no pair": (["run", "spam-classifier", "--set", "nonsense"], ["--set takes KEY=VALUE", "'nonsense'"]),
    "no key": (["run", "spam-classifier", "--set", "=3"], ["--set takes KEY=VALUE", "'=3'"]),
    "value for a table": (["run", "spam-classifier", "--set", "train=5", "--set", "train.lr=1"], ["train"]),
    "table for a value": (["run", "spam-classifier", "--set", "train.lr.x=1"], ["train.lr", "number"]),
    "fractions": (
        ["classify", "{}/good.csv", *TRAIN, "--set", "split.val_fraction=0.5", "--set", "split.test_fraction=0.6"],
        ["val_fraction + test_fraction"],
    ),
    "unknown weights": (
        ["classify", "{}/good.csv", "--weights", "gpt3"],
        ["unknown weights 'gpt3'", "gpt2-medium", "random-bytes", "finetune weights ls"],
    ),
    "unknown weights to verify": (["weights", "verify", "gpt3"], ["unknown weights 'gpt3'", "gpt2-medium"]),
    "unknown weights to get": (["weights", "get", "gpt3"], ["unknown weights 'gpt3'", "gpt2-medium"]),
    "weights out of reach": (
        ["classify", "{}/good.csv", "--weights", "gpt2"],
        ["gpt2 cannot be downloaded without a network", "HF_HUB_OFFLINE is set"],
    ),
    "weights as a pickle": (
        ["classify", "{}/good.csv", "--weights", "{}/model.bin"],
        ["a pickle, which can run code", "save_pretrained"],
    ),
    "weights as pickles": (
        ["classify", "{}/good.csv", "--weights", "{}/pickles"],
        ["loading a pickle can run code", "pytorch_model.bin", "save_pretrained"],
    ),
    "weights in no directory": (["classify", "{}/good.csv", "--weights", "{}/folder"], ["no config.json"]),
    "unknown pipeline": (
        ["run", "spam-clasifier"],
        ["'spam-clasifier'", "did you mean 'spam-classifier'?", "finetune ls"],
    ),
    "unknown stage": (["run", "spam-classifier", "--from", "trian"], ["'trian'", "prepare", "did you mean 'train'?"]),
    "unknown last stage": (["run", "spam-classifier", "--until", "x"], ["'x'", "download, verify"]),
    "stages in the wrong order": (
        ["run", "spam-classifier", "--from", "train", "--until", "verify"],
        ["--until verify comes before --from train"],
    ),
    "run name up": (["classify", "{}/good.csv", "--name", "../x"], ["'../x'", "letters, digits"]),
    "run name absolute": (["classify", "{}/good.csv", "--name", "/tmp/x"], ["'/tmp/x'", "letters, digits"]),
    "run name reserved": (["classify", "{}/good.csv", "--name", "CON"], ["'CON'", "invalid run name"]),
    "run name long": (["classify", "{}/good.csv", "--name", "x" * 300], ["at most 64"]),
    "run name dots": (["classify", "{}/good.csv", "--name", ".."], ["'..'"]),
    "run name empty": (["classify", "{}/good.csv", "--name", ""], ["''", "letters, digits"]),
    "no run to report": (["report", "{}/folder"], ["not a run", "runs/"]),
    "a file to report": (["report", "{}/file"], ["not a run"]),
    "no run to export": (["export", "{}/nothing"], ["not a run"]),
    "empty file": (["classify", "{}/empty.csv", *TRAIN], ["empty.csv", "the file is empty"]),
    "header only": (["classify", "{}/header.csv", *TRAIN], ["a header and no rows"]),
    "one row": (["classify", "{}/one_row.csv", *TRAIN], ["needs at least two labels", "got ham", "--label NAME"]),
    "one class": (["classify", "{}/one_class.csv", *TRAIN], ["needs at least two labels", "got ham", "--label NAME"]),
    "two rows": (["classify", "{}/two_rows.csv", *TRAIN], ["too few rows", "Add rows"]),
    "too many fields": (
        ["classify", "{}/wide.csv", *TRAIN],
        ["wide.csv, line 4: 3 fields", "2 columns: text, label", "Quote"],
    ),
    "too few fields": (["classify", "{}/narrow.csv", *TRAIN], ["narrow.csv, line 3: 1 field;", "2 columns"]),
    "open quote": (["classify", "{}/quote.csv", *TRAIN], ["quote.csv", "line 5", "Close every quote that is opened"]),
    "latin-1": (
        ["classify", "{}/latin1.csv", *TRAIN],
        [
            "not UTF-8",
            "0xe9 in line 3002",
            "it is the only non-ASCII line",
            "Save the file as UTF-8",
            "--encoding cp1252",
            "a guess",
            "café",
        ],
    ),
    "f1 of three": (
        ["classify", "{}/three.csv", *TRAIN, "--set", "evaluate.metric=f1"],
        ["evaluate.metric=f1 needs exactly two labels", "a, b, c", "evaluate.metric=f1_macro"],
    ),
    "threshold of three": (
        ["classify", "{}/three.csv", *TRAIN, "--set", "evaluate.aim=max-f1"],
        ["evaluate.aim=max-f1 needs exactly two labels"],
    ),
    "positive of three": (
        ["classify", "{}/three.csv", *TRAIN, "--set", "evaluate.positive=a"],
        ["evaluate.positive needs exactly two labels"],
    ),
    "unknown positive": (
        ["classify", "{}/good.csv", *TRAIN, "--set", "evaluate.positive=Spam"],
        ["evaluate.positive", "'Spam'", "ham, spam"],
    ),
    "toml with a key twice": (["run", "{}/twice.toml"], ["twice.toml", "line 2"]),
    "toml with an unknown key": (["run", "{}/key.toml"], ["key.toml: unknown key 'train.learning_rate'", "'train.lr'"]),
    "toml with a fault": (["run", "{}/syntax.toml"], ["syntax.toml", "line 1"]),
    "toml of no pipeline": (["run", "{}/none.toml"], ["none.toml", "does not name a pipeline", "spam-classifier"]),
    "toml that is not there": (["run", "{}/nothing.toml"], ["nothing.toml: no such file", "finetune cp"]),
    "json with a fault": (["run", "{}/odd.json"], ["odd.json"]),
    "json of a list": (["run", "{}/list.json"], ["list.json: does not name a pipeline"]),
    "copy to no toml": (["cp", "spam-classifier", "mine.txt"], [".toml", "mine.txt"]),
    "unknown format": (["export", "{}", "--format", "exe"], ["'exe'", "hf"]),
    "unknown labels": (["evaluate", "{}/bundle", "{}/unknown_labels.csv"], ["never saw", "eggs", "ham, spam"]),
    "evaluate without text": (["evaluate", "{}/bundle", "{}/columns.csv"], ["message_text", "--text NAME"]),
    "evaluate nothing": (["evaluate", "{}/bundle", "{}/nothing.csv"], ["nothing.csv: no such file"]),
    "no bundle": (["predict", "{}/no_bundle", "hi"], ["not a bundle", "export/hf"]),
    "a file as bundle": (["predict", "{}/file", "hi"], ["not a bundle"]),
    "bundle without keys": (["predict", "{}/keys", "hi"], ["bundle.json", "schema_version", "Export the run again"]),
    "bundle of a list": (["predict", "{}/list", "hi"], ["list/bundle.json", "Export the run again"]),
    "bundle of other labels": (["predict", "{}/labels", "hi"], ["labels"]),
    "bundle of another tokenizer": (["predict", "{}/tokenizer", "hi"], ["tokenizer", "Export the run again"]),
    "columns that clash": (["predict", "{}/bundle", "--csv", "{}/clash.csv", "--out", "o.csv"], ["p_ham", "Rename"]),
    "out is in": (
        ["predict", "{}/bundle", "--csv", "{}/good.csv", "--out", "{}/good.csv"],
        ["good.csv", "another --out"],
    ),
    "nothing to predict": (["predict", "{}/bundle"], ["texts", "--csv IN with --out OUT"]),
    "csv without out": (["predict", "{}/bundle", "--csv", "{}/good.csv"], ["--csv IN with --out OUT"]),
    "out is a directory": (
        ["predict", "{}/bundle", "--csv", "{}/good.csv", "--out", "."],
        [".: not the name of a table file", ".csv", "--out predictions.csv"],
    ),
    "out is a directory that ends so": (
        ["predict", "{}/bundle", "--csv", "{}/good.csv", "--out", "{}/folder.csv"],
        ["folder.csv: not the name of a table file"],
    ),
    "out is a directory to be": (
        ["predict", "{}/bundle", "--csv", "{}/good.csv", "--out", "new/"],
        ["new: not the name of a table file"],
    ),
    "text column of no table": (["predict", "{}/bundle", "hi", "--text", "message"], ["--text", "--csv", "'message'"]),
    "empty text": (["predict", "{}/bundle", "hi", ""], ["text 1 is empty"]),
    "predict a header": (
        ["predict", "{}/bundle", "--csv", "{}/header.csv", "--out", "o.csv"],
        ["a header and no rows"],
    ),
    "predict wide": (
        ["predict", "{}/bundle", "--csv", "{}/wide.csv", "--out", "o.csv"],
        ["wide.csv, line 4: 3 fields"],
    ),
    "predict latin-1": (["predict", "{}/bundle", "--csv", "{}/latin1.csv", "--out", "o.csv"], ["line 3002", "UTF-8"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_words(case, refused, place):
    arguments, fragments = CASES[case]
    error = refused(*(argument.replace("{}", str(place)) for argument in arguments))
    assert [fragment for fragment in fragments if fragment not in error] == [], error
    assert not Path("o.csv").exists() and (place / "good.csv").read_text() == TABLE
    assert not list(Path().glob("runs/*/train.jsonl"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "data={}/nothing.csv"],
        ["--set", "train.lr=nan"],
        ["--from", "x"],
        ["--name", "../x"],
        ["--set", "data={}/table.xls"],
    ],
)
def test_what_can_be_known_before_makes_no_run(arguments, refused, place):
    assert refused("run", "classify", *(argument.replace("{}", str(place)) for argument in arguments))
    assert not Path("runs").exists()


def mirrored(monkeypatch, directory: Path, table: str, files: dict[str, bytes], wrong: dict[str, bytes]) -> None:
    """A mirror with one row's `files`, pinned in a registry of its own, then some of them replaced by `wrong`."""
    row = table.split("]")[0].split(".")[1]
    (directory / "mirror" / row).mkdir(parents=True)
    pins = []
    for name, content in files.items():
        (directory / "mirror" / row / name).write_bytes(wrong.get(name, content))
        pins.append(f'"{name}" = {{ bytes = {len(content)}, sha256 = "{hashlib.sha256(content).hexdigest()}" }}\n')
    section = table.split("]")[0] + ".files]\n"
    (directory / "registry.toml").write_text(table + section + "".join(pins))
    monkeypatch.setenv("FINETUNE_MIRROR", str(directory / "mirror"))
    monkeypatch.setenv("FINETUNE_REGISTRY", str(directory / "registry.toml"))


DATA_ROW = '[data.toy]\nformat = "csv"\n'
WEIGHTS_ROW = (
    '[weights.tiny]\nrepo = "someone/tiny"\nrevision = "' + "a" * 40 + '"\nlayers = 1\nwidth = 8\n'
    "heads = 2\ncontext = 32\nvocab_size = 257\n"
)


def test_a_mirror_with_another_file_is_refused(monkeypatch, tmp_path, refused):
    files = {"toy.csv": TABLE.encode()}
    mirrored(monkeypatch, tmp_path, DATA_ROW, files, {"toy.csv": TABLE.replace("spam", "ham ").encode()})
    error = refused("run", "classify", "--set", "data=toy", "--set", "weights=random-bytes")
    assert "toy.csv does not match the pinned hash" in error and "unset FINETUNE_MIRROR" in error
    mirrored(monkeypatch, tmp_path / "right", DATA_ROW, files, {})
    monkeypatch.setattr(
        sys, "argv", ["finetune", "run", "classify", "--set", "data=toy", *TRAIN[2:], "--set", "weights=random-bytes"]
    )
    from finetune.cli import main

    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0


def test_a_mirror_with_cut_weights_is_refused(monkeypatch, tmp_path, refused, place):
    files = {name: (place / "bundle" / name).read_bytes() for name in ("model.safetensors", "vocab.json", "merges.txt")}
    mirrored(monkeypatch, tmp_path, WEIGHTS_ROW, files, {"model.safetensors": files["model.safetensors"][:-100]})
    error = refused("run", "classify", "--set", f"data={place}/good.csv", "--set", "weights=tiny")
    assert "model.safetensors does not match the pinned hash" in error and "bytes" in error
    assert "tiny/model.safetensors" in refused("weights", "verify", "tiny")


def test_cut_weights_in_a_directory_are_refused(tmp_path, refused, place):
    import shutil

    cut = Path(shutil.copytree(place / "bundle", tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-100])
    for arguments in (["predict", cut, "hi"], ["classify", place / "good.csv", "--weights", cut]):
        error = refused(*arguments)
        assert "model.safetensors" in error and "incomplete download" in error


def test_a_run_in_use_is_left_alone(refused, place, tmp_path):
    """The lock is another process's: its number is named."""
    import subprocess

    locked = tmp_path / "runs" / "busy"
    holder = "; ".join(
        [
            "import sys",
            "from finetune.run import Run",
            "lock = Run.named(sys.argv[1], 'busy').locked()",
            "lock.__enter__()",
            "print('held', flush=True)",
            "sys.stdin.read()",
        ]
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "runs")],
        stdin=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout.readline() == "held\n"
        error = refused("classify", place / "good.csv", "--name", "busy", *TRAIN)
        assert f"{Path('runs') / 'busy'}: another process is using this run; got process {process.pid}" in error
        assert "another --name" in error and [path.name for path in locked.iterdir()] == [".lock"]
    finally:
        process.communicate("")


def test_a_directory_that_is_not_a_run_is_left_alone(refused, place, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "thesis.txt").write_text("years")
    error = refused("classify", place / "good.csv", "--name", "mine")
    assert "exists and is not a run" in error and "another --name" in error
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "runs" / "mine")
    assert "not a run directory" in refused("classify", place / "good.csv", "--name", "link")
    (tmp_path / "runs" / "file").write_text("")
    assert "not a run directory" in refused("classify", place / "good.csv", "--name", "file")
    assert (tmp_path / "runs" / "mine" / "thesis.txt").read_text() == "years"


def test_a_damaged_recipe_of_a_run_is_named(refused, place, tmp_path):
    run = tmp_path / "runs" / "old"
    run.mkdir(parents=True)
    for text, word in (("{", "cannot read"), ('{"gone": 1}', "unknown key 'gone'"), ("[1]", "object of settings")):
        (run / "recipe.json").write_text(text)
        error = refused("classify", place / "good.csv", "--name", "old")
        assert "recipe.json" in error and word in error
        assert "recipe.json" in refused("export", run)


def test_a_read_only_place_is_named(refused, place, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o555)
    try:
        (runs / "probe").mkdir()
    except PermissionError:
        pass
    else:  # root and Windows write into read-only directories: refuse as the system does for others
        (runs / "probe").rmdir()
        mkdir = os.mkdir

        def refuse(path, *arguments, **options):
            if runs in Path(path).absolute().parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            mkdir(path, *arguments, **options)

        monkeypatch.setattr(os, "mkdir", refuse)
    error = refused("classify", place / "good.csv", *TRAIN)
    assert "cannot be written" in error and "Permission denied" in error and not list(runs.iterdir())


def test_auto_is_resolved_before_it_is_got(refused, monkeypatch):
    monkeypatch.setattr("finetune.checkpoints.sources.resolve_auto", {"auto": "gpt2-medium"}.get)
    assert "gpt2-medium cannot be downloaded without a network" in refused("weights", "get", "auto")


def test_an_answer_goes_into_a_directory_that_is_made(place, monkeypatch, tmp_path):
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["finetune", "predict", str(place / "bundle"), "--csv", str(place / "good.csv"), "--out", "new/deep/out.csv"],
    )
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0 and len(Path("new/deep/out.csv").read_text().splitlines()) == len(ROWS) + 1


def test_a_runs_directory_that_cannot_be_made_is_reported(refused, place, tmp_path):
    (tmp_path / "runs").write_text("a file")
    assert "cannot be written" in refused("classify", place / "good.csv", *TRAIN)


def test_a_full_disk_is_reported(refused, place, tmp_path, monkeypatch):
    """The write that fails is named; the run goes on where it stopped once there is room."""
    room = SimpleNamespace(left=12)
    fsync = os.fsync

    def full(descriptor):
        room.left -= 1
        if room.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    error = refused("classify", place / "good.csv", *TRAIN)
    assert "No space left on device" in error and "Free some space" in error
    room.left = 10_000
    assert "too few rows" in refused("classify", place / "two_rows.csv", *TRAIN)  # nothing else is in the way
    monkeypatch.setattr(sys, "argv", ["finetune", "classify", str(place / "good.csv"), *TRAIN])
    from finetune.cli import main

    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0 and not list(tmp_path.rglob("*.tmp"))

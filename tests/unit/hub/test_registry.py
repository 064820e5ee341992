"""Registry rows: the built-in ones, a person's own, and what is refused."""

import pytest

from finetune.errors import FetchError
from finetune.hub.assets import asset
from finetune.hub.registry import data_registry, weights_registry

ROW = """
[weights.mine]
repo = "someone/model"
revision = "0123456789012345678901234567890123456789"
layers = 2
width = 8
heads = 2
[weights.mine.files]
"model.safetensors" = { bytes = 10, sha256 = "%s" }
"vocab.json" = {}
"merges.txt" = {}
""" % ("ab" * 32)
DATA = """
[data.mine]
format = "csv"
[data.mine.files]
"mine.csv" = { bytes = 10, sha256 = "%s" }
""" % ("cd" * 32)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Write a registry file and point FINETUNE_REGISTRY at it."""

    def write(text):
        path = tmp_path / "rows.toml"
        path.write_text(text)
        monkeypatch.setenv("FINETUNE_REGISTRY", str(path))
        return path

    return write


def test_shapes_give_the_known_parameter_counts():
    rows = weights_registry()
    assert list(rows) == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"]
    assert rows["gpt2"].parameters == 124_439_808
    for row in rows.values():
        block = 12 * row.width**2 + 13 * row.width  # four matrices, their biases and two norms
        embeddings = (row.vocab_size + row.context) * row.width
        assert row.parameters == row.layers * block + embeddings + 2 * row.width


def test_every_row_has_the_same_vocabulary_and_the_known_weights_are_pinned():
    rows = weights_registry()
    assert len({row.files["vocab.json"].sha256 for row in rows.values()}) == 1
    assert rows["gpt2"].files["model.safetensors"].size_bytes == 548_105_171
    unpinned = {name for name, row in rows.items() if row.files["model.safetensors"].sha256 is None}
    assert unpinned == {"gpt2-medium", "gpt2-large"}


def test_sms_row_is_read_without_quoting_and_without_a_header():
    row = data_registry()["sms-spam"]
    assert (row.file, row.spec.size_bytes, row.archive.member) == ("SMSSpamCollection", 477_907, row.file)
    assert (row.format, row.header, row.quoting, row.columns) == ("tsv", False, False, ["label", "text"])
    assert row.licence == "CC BY 4.0" and row.doi and row.citation and row.fallback == "spam-sample"


def test_own_rows_come_first_and_replace(registry):
    registry(ROW + ROW.replace("mine", "gpt2") + DATA)
    rows = weights_registry()
    assert list(rows)[:2] == ["mine", "gpt2"] and len(rows) == 6
    assert rows["gpt2"].layers == 2 and rows["mine"].context == 1024
    assert list(data_registry()) == ["mine", "sms-spam"] and data_registry()["mine"].header


def test_a_copy_of_the_built_in_file_is_a_registry(registry):
    registry(asset("weights", "registry.toml").read_text(encoding="utf-8"))
    assert len(weights_registry()) == 5


def test_empty_variable_is_unset(monkeypatch):
    monkeypatch.setenv("FINETUNE_REGISTRY", "")
    assert "gpt2" in weights_registry()


def test_shards_need_their_index(registry):
    shards = '"model-00001-of-00002.safetensors" = {}\n"model-00002-of-00002.safetensors" = {}\n'
    whole = ROW.replace('"model.safetensors" = { bytes = 10, sha256 = "%s" }\n' % ("ab" * 32), shards)
    registry(whole + '"model.safetensors.index.json" = {}\n')
    assert len(weights_registry()["mine"].files) == 5
    registry(whole)
    with pytest.raises(FetchError, match="shards and model.safetensors.index.json"):
        weights_registry()


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("layers = 2", "", "layers"),
        ("layers = 2", "layers = 2\nlicense = ''", "unknown key 'license'; did you mean 'licence'"),
        ("layers = 2", "layers = 0", "layers"),
        ("heads = 2", "heads = 3", "heads must divide width"),
        ("0123456789012345678901234567890123456789", "main", "revision"),
        ("someone/model", "../model", "repo"),
        ("ab" * 32, "ABAB", "files.model.safetensors.sha256"),
        ('"vocab.json"', '"../vocab.json"', "files"),
        ('"merges.txt" = {}', "", "merges.txt"),
        ('"merges.txt" = {}', '"merges.txt" = {}\n"pytorch_model.bin" = {}', "nothing else"),
        ("[weights.mine]", '[weights."../mine"]', "name"),
        ("[weights.mine]", "[weight.mine]", "unknown key 'weight'; did you mean 'weights'"),
        ("[weights.mine]", "[weights.mine", "cannot be read as TOML"),
    ],
)
def test_malformed_file_is_named_with_its_key(registry, old, new, words):
    assert old in ROW
    path = registry(ROW.replace(old, new, 1))
    with pytest.raises(FetchError) as error:
        weights_registry()
    assert str(path) in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("bytes = 10, ", "", "needs bytes and sha256"),
        (
            "[data.mine.files]",
            '[data.mine.archive]\nurl = "http://example.org/a.zip"\nmember = "a"\n[data.mine.files]',
            "archive.url",
        ),
        (
            "[data.mine.files]",
            '[data.mine.archive]\nurl = "file:///etc/passwd"\nmember = "a"\n[data.mine.files]',
            "archive.url",
        ),
        ('"mine.csv"', '"a.csv" = {}\n"mine.csv"', "files"),
    ],
)
def test_malformed_data_row(registry, old, new, words):
    registry(DATA.replace(old, new, 1))
    with pytest.raises(FetchError, match=words):
        data_registry()


def test_missing_registry_file(monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_REGISTRY", str(tmp_path / "none.toml"))
    with pytest.raises(FetchError, match="none.toml: no such file"):
        weights_registry()


@pytest.mark.parametrize("kind, rows", [("weights", weights_registry), ("data", data_registry)])
def test_the_example_in_the_readme_is_a_registry(registry, kind, rows):
    text = asset(kind, "README.md").read_text(encoding="utf-8")
    registry(text.split("```toml\n")[1].split("```")[0])
    assert next(iter(rows())) == "mine"

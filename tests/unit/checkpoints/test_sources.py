"""From a name to a checkpoint: a directory, a run, a registry row, or an error that names what there is."""

import pytest
import torch

from finetune.checkpoints import sources
from finetune.checkpoints.sources import load, locate_weights, resolve_auto
from finetune.checkpoints.store import write_checkpoint
from finetune.errors import FetchError, WeightsError
from finetune.files import sha256_file


@pytest.fixture
def mirror(model, tokenizer, tmp_path, monkeypatch):
    """A mirror with the row `small`, and a registry with its hashes; no config.json, as a mirror may have none."""
    folder = tmp_path / "mirror" / "small"
    write_checkpoint(folder, model, tokenizer)
    (folder / "config.json").unlink()
    paths = [folder / name for name in ("model.safetensors", "vocab.json", "merges.txt")]
    files = "\n".join(
        f'"{path.name}" = {{ bytes = {path.stat().st_size}, sha256 = "{sha256_file(path)}" }}' for path in paths
    )
    registry = tmp_path / "registry.toml"
    registry.write_text(
        f'[weights.small]\nrepo = "a/b"\nrevision = "{"0" * 40}"\nlayers = 2\nwidth = 48\nheads = 4\n'
        f'context = 32\nvocab_size = 257\nlicence = "MIT"\n[weights.small.files]\n{files}\n'
    )
    monkeypatch.setenv("FINETUNE_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("FINETUNE_REGISTRY", str(registry))
    return folder


def test_a_registry_row_loads_from_the_mirror(mirror, model):
    source = locate_weights("small", fetch=True)
    assert source.directory == mirror and source.licence == "MIT" and "a/b" in source.source
    loaded = source.load().model
    assert torch.equal(loaded.token_embedding.weight, model.token_embedding.weight)


def test_a_mirror_with_another_content_is_refused(mirror):
    content = bytearray((mirror / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (mirror / "model.safetensors").write_bytes(content)
    with pytest.raises(FetchError, match="model.safetensors does not match the pinned hash"):
        locate_weights("small", fetch=True)


def test_a_directory_wins_over_a_row(mirror, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "small", model, tokenizer)
    assert locate_weights("small").directory.resolve() == (tmp_path / "small").resolve()
    ours, its_tokenizer = load("small")
    assert not ours.training and its_tokenizer.vocab_size == 257


def test_a_run_means_its_export(model, tokenizer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    with pytest.raises(WeightsError, match="a run without exported weights"):
        locate_weights(str(tmp_path / "run"))
    write_checkpoint(tmp_path / "run" / "export" / "hf", model, tokenizer)
    assert locate_weights(str(tmp_path / "run")).directory == tmp_path / "run" / "export" / "hf"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_file_is_refused_with_the_way_to_go(tmp_path, name):
    with pytest.raises(WeightsError, match="weights must be a directory.*save_pretrained"):
        locate_weights(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="weights must be a directory.*save_pretrained"):
        locate_weights(str(tmp_path / name))


def test_an_unknown_name_names_the_known_ones():
    with pytest.raises(WeightsError, match="unknown weights 'gpt2-medum'.*distilgpt2.*gpt2-medium.*weights ls"):
        locate_weights("gpt2-medum")


def test_auto_is_gpt2_where_it_can_be_had_and_else_the_fallback(tmp_path, monkeypatch):
    def refused(*arguments):
        raise FetchError("status 403")

    monkeypatch.setattr(sources, "find_weights", lambda row: None)
    for bundled, fallback in ((tmp_path, "mini"), (tmp_path / "missing", "random-bytes")):
        monkeypatch.setattr(sources, "_bundled", lambda bundled=bundled: bundled)
        for network, answer, name in ((True, str, "gpt2"), (True, refused, fallback), (False, str, fallback)):
            monkeypatch.setattr(sources, "network_available", lambda network=network: network)
            monkeypatch.setattr(sources, "hub_value", lambda *arguments, answer=answer: answer())
            assert resolve_auto("auto") == name
    assert resolve_auto("distilgpt2") == "distilgpt2"


def test_a_mistyped_run_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "recipe.json").write_text("{}")
    with pytest.raises(WeightsError, match="runs/frist: no such run; known: first. did you mean"):
        locate_weights("runs/frist")


@pytest.mark.parametrize("name", ["random-bytes", "scratch"])
def test_random_weights_are_no_weights_to_use_and_mini_is_named(name):
    with pytest.raises(WeightsError, match=f"'{name}' weights are random and .*gpt2.*For example: mini"):
        locate_weights(name)

"""Checkpoint directories: what transformers writes we read, what we write transformers reads, and nothing is lost."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune.checkpoints import store
from finetune.checkpoints.store import load_checkpoint, read_config, write_checkpoint
from finetune.errors import FinetuneError, WeightsError
from finetune.machine import latest_peak_bytes, release_memory, reset_peak_memory
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.tokenizer import Tokenizer


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Whether all parameters are bit-equal."""
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture
def written(theirs, tokenizer, tmp_path) -> Path:
    """transformers' model in a directory, with a vocabulary."""
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    return tmp_path / "theirs"


@torch.no_grad()
def test_transformers_loads_what_we_write_and_we_load_it_back_bit_equal(model, tokenizer, tmp_path, input_ids):
    from transformers import GPT2LMHeadModel

    write_checkpoint(tmp_path / "ours", model, tokenizer)
    loaded, info = GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.lm_head.weight is loaded.transformer.wte.weight and loaded.dtype == torch.float32
    torch.testing.assert_close(model(input_ids), loaded(input_ids).logits, atol=2e-5, rtol=0)
    back = load_checkpoint(tmp_path / "ours")
    assert same(back.model, model) and back.model.config == model.config and not back.model.training
    assert back.tokenizer.fingerprint() == tokenizer.fingerprint()


@torch.no_grad()
def test_a_classifier_is_a_GPT2ForSequenceClassification(model, tokenizer, tmp_path, input_ids):
    from transformers import GPT2ForSequenceClassification

    ours = Classifier(model, 5).initialise_head(0).eval()
    write_checkpoint(tmp_path / "ours", ours, tokenizer, {"num_labels": 5})
    loaded, info = GPT2ForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    input_ids[input_ids == tokenizer.end_of_text] = 0
    last = torch.full((2,), 31)
    torch.testing.assert_close(ours(input_ids, last), loaded(input_ids).logits, atol=2e-5, rtol=0)
    back = load_checkpoint(tmp_path / "ours").model
    assert isinstance(back, Classifier) and same(back, ours)


def test_the_tokenizer_we_write_is_the_same_in_transformers(model, tokenizer, tmp_path):
    from transformers import AutoTokenizer

    write_checkpoint(tmp_path / "ours", model, tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    text = "A first text, é \U0001f600 <|endoftext|> typed in it.\n"
    assert theirs(text)["input_ids"] == tokenizer.encode(text) and theirs.pad_token_id == 256
    assert len(theirs) == tokenizer.vocab_size


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_of_any_float_type_give_the_logits_of_transformers(theirs, tokenizer, tmp_path, input_ids, dtype):
    theirs.to(dtype).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.report.dtypes == [str(dtype).removeprefix("torch.")]
    torch.testing.assert_close(loaded.model(input_ids), theirs.float()(input_ids).logits, atol=2e-5, rtol=0)


@torch.no_grad()
def test_shards_load(theirs, tokenizer, tmp_path, input_ids):
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    tokenizer.save(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = load_checkpoint(tmp_path)
    assert loaded.report.loaded == 28
    torch.testing.assert_close(loaded.model(input_ids), theirs(input_ids).logits, atol=2e-5, rtol=0)


def test_a_tokenizer_json_is_enough(written, tokenizer, tmp_path):
    from transformers import GPT2Tokenizer

    fast = GPT2Tokenizer.from_pretrained(written)
    for name in ("vocab.json", "merges.txt"):
        (written / name).unlink()
    fast.backend_tokenizer.save(str(written / "tokenizer.json"))
    loaded = load_checkpoint(written).tokenizer
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode("été") == fast("été")["input_ids"]


def test_a_vocabulary_of_another_size_is_refused(written):
    vocabulary = json.loads((written / "vocab.json").read_text(encoding="utf-8"))
    (written / "vocab.json").write_text(json.dumps(vocabulary | {"<|pad|>": 257}), encoding="utf-8")
    with pytest.raises(WeightsError, match="the tokenizer has 258 tokens.*the model has 257"):
        load_checkpoint(written)


def test_no_tokenizer_is_refused(written):
    (written / "merges.txt").unlink()
    with pytest.raises(WeightsError, match="no readable tokenizer"):
        load_checkpoint(written)


def test_a_given_shape_replaces_a_missing_config(written):
    shape = read_config(written)
    assert shape == GPTConfig(vocab_size=257, context=32, width=48, layers=2, heads=4)
    (written / "config.json").unlink()
    with pytest.raises(WeightsError, match="no config.json"):
        load_checkpoint(written)
    assert load_checkpoint(written, shape).report.loaded == 28


def test_dropout_is_the_callers_choice_and_off_in_eval_mode(written, input_ids):
    loaded = load_checkpoint(written, dropout=0.5).model
    assert loaded.config.dropout == 0.5 and torch.equal(loaded(input_ids), loaded(input_ids))
    loaded.train()
    assert not torch.equal(loaded(input_ids), loaded(input_ids))


def test_the_norm_epsilon_of_the_config_is_used(theirs, tokenizer, tmp_path, input_ids):
    theirs.config.layer_norm_epsilon = 0.5
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    from transformers import GPT2LMHeadModel

    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(tmp_path).eval()(input_ids).logits
        torch.testing.assert_close(load_checkpoint(tmp_path).model(input_ids), expected, atol=2e-5, rtol=0)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_in_rust(*_, **__):
    raise store.SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "where, fault",
    [
        ("write_tensors", full_disk),
        ("write_tensors", full_disk_in_rust),
        ("write_json", full_disk),
        ("sync_directory", full_disk),
    ],
)
def test_a_disk_that_fails_leaves_a_whole_checkpoint(model, tokenizer, tmp_path, monkeypatch, where, fault):
    write_checkpoint(tmp_path / "best", model, tokenizer)
    before = {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()}
    monkeypatch.setattr(store, where, fault)
    with pytest.raises(FinetuneError, match="cannot write .*No space left on device"):
        write_checkpoint(tmp_path / "best", model, tokenizer)
    assert {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_rename_that_fails_leaves_the_old_checkpoint(model, tokenizer, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best", model, tokenizer)
    rename = Path.rename

    def fail_to_publish(self, target):
        if self.suffix == ".tmp":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_publish)
    with pytest.raises(WeightsError, match="cannot write"):
        write_checkpoint(tmp_path / "best", model, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert same(load_checkpoint(tmp_path / "best").model, model)


def test_a_new_checkpoint_replaces_the_old_one_whole(model, tokenizer, tmp_path):
    write_checkpoint(tmp_path / "best", model, tokenizer, extra_files={"note.txt": "old"})
    with torch.no_grad():
        model.norm.bias.add_(1)
    write_checkpoint(tmp_path / "best", model, tokenizer)
    assert not (tmp_path / "best" / "note.txt").exists() and [path.name for path in tmp_path.iterdir()] == ["best"]
    assert same(load_checkpoint(tmp_path / "best").model, model)


def test_the_model_of_the_fallback_is_reproducible(tmp_path):
    from finetune.checkpoints.fallback import write_random_bytes

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_bytes(tmp_path / name, seed)
    a, b, c = (load_checkpoint(tmp_path / name) for name in "abc")
    assert same(a.model, b.model) and not same(a.model, c.model)
    assert isinstance(a.tokenizer, Tokenizer) and a.tokenizer.vocab_size == a.model.config.vocab_size == 257


def test_loading_does_not_import_the_compiler(written):
    code = (
        "import sys; from pathlib import Path; from finetune.checkpoints.store import load_checkpoint; "
        f"load_checkpoint(Path({str(written)!r})); print({{'torch._dynamo', 'sympy'}} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "set()\n", ended


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mapped_weights_are_those_of_a_copy(model, tokenizer, tmp_path, input_ids, dtype):
    ours = Classifier(model, 5).initialise_head(0).eval()
    write_checkpoint(tmp_path / "ours", ours, tokenizer, {"num_labels": 5}, dtype=dtype)
    copied, mapped = (load_checkpoint(tmp_path / "ours", mapped=way) for way in (False, True))
    assert same(copied.model, mapped.model) and copied.report == mapped.report
    assert not copied.gpt.blocks[0].mlp.up.weight.T.is_contiguous()
    assert mapped.gpt.blocks[0].mlp.up.weight.T.is_contiguous()  # as the file has it
    last = torch.full((2,), 31)
    torch.testing.assert_close(mapped.model(input_ids, last), copied.model(input_ids, last), atol=1e-5, rtol=0)
    before = (tmp_path / "ours" / "model.safetensors").read_bytes()
    for parameter in mapped.model.parameters():
        parameter.zero_()
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux alone")
@pytest.mark.parametrize(("mapped", "most"), [(False, 1.3), (True, 1.1)])
def test_loading_never_holds_the_weights_twice(tmp_path, mapped, most):
    """Neither in copies nor in pages of the file."""
    import psutil

    tokenizer = Tokenizer.of_bytes()
    model = GPT(GPTConfig(tokenizer.vocab_size, 64, 512, 8, 8)).initialise(1)
    size = sum(4 * p.numel() for p in model.parameters())
    write_checkpoint(tmp_path / "large", model, tokenizer)
    del model
    load_checkpoint(tmp_path / "large", mapped=mapped)  # what the first call imports
    release_memory()
    before = psutil.Process().memory_info().rss
    reset_peak_memory()
    loaded = load_checkpoint(tmp_path / "large", mapped=mapped)
    assert size > 1e8 and loaded.report.parameters * 4 == size
    assert 0.5 * size < latest_peak_bytes() - before < most * size

"""Training on packed documents takes the same steps with and without a mask."""

import json

import numpy as np
import pytest
import torch

from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import LossModule
from finetune.recipe import Train
from finetune.tasks.pretrain.job import build_job, chooses_varlen
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.training import loop

END = 49


@pytest.fixture
def tokens(tmp_path):
    """A file of 40 short documents."""
    random = np.random.default_rng(1)
    ids = [part for _ in range(40) for part in (END, *random.integers(0, END, random.integers(1, 30)))]
    np.array([*ids, END], dtype=np.uint16).tofile(tmp_path / "train.bin")
    return lambda across=False: PackedTokens(tmp_path / "train.bin", 32, 50, END, across)


def trained(tokens, folder, attention, **settings):
    model = LossModule(GPT(GPTConfig(50, 32, 32, 2, 2)).initialise(1, std=0.1))
    chosen = Train(
        method="full", epochs=2, lr=1e-2, batch_size=4, threads=1, precision="fp32", metric="log_loss", **settings
    )
    job = build_job(model, chosen, tokens, tokens, 3.0, 8, torch.device("cpu"), attention)
    loop.train(job, chosen, folder, {})
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [line.get("loss", line.get("validation", {}).get("log_loss")) for line in lines]


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 64}, {"checkpoint_blocks": True}])
def test_a_training_without_a_mask_is_the_one_with_it(tokens, tmp_path, capsys, settings):
    plain = trained(tokens(), tmp_path / "plain", "masked", **settings)
    assert "packed documents" not in capsys.readouterr().out
    packed = trained(tokens(), tmp_path / "packed", "varlen", **settings)
    assert "packed documents: variable-length attention" in capsys.readouterr().out
    assert packed == pytest.approx(plain, rel=1e-5) and plain[-1] < plain[0] - 0.1


@pytest.mark.parametrize(
    "across, asked, settings, said",
    [
        (True, "varlen", {}, "masked attention: attention crosses documents"),
        (True, "auto", {}, ""),
        (False, "auto", {}, "variable-length attention"),
        (False, "auto", {"step": "compiled"}, ""),  # its shapes would differ in every step
    ],
)
def test_a_mask_is_left_out_where_documents_are_apart(tokens, across, asked, settings, said, capsys):
    body = GPT(GPTConfig(50, 32, 32, 2, 2, dropout=0.1))
    chosen = Train(precision="fp32", **settings)
    assert chooses_varlen(body, chosen, tokens(across), torch.device("cpu"), asked) == said.startswith("variable")
    assert said in (shown := capsys.readouterr().out) and bool(said) == bool(shown)

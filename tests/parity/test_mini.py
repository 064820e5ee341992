"""The bundled checkpoint: small enough, read alike by transformers, and a card that says what the log says."""

import json
import runpy

import torch

from finetune.checkpoints.sources import load
from finetune.hub.assets import asset
from finetune.pipeline import load_pipeline

MINI = asset("weights", "mini")


def test_it_is_small_and_its_special_tokens_stand_last():
    assert sum(path.stat().st_size for path in MINI.glob("*.safetensors")) <= 16_000_000
    _, tokenizer = load("mini")
    assert list(tokenizer.special_tokens) == ["<|pad|>", "<|mask|>", "<|sep|>", "<|endoftext|>"]
    assert tokenizer.vocab_size == 8192 == tokenizer.end_of_text + 1


def test_transformers_loads_it_as_it_is():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs, loading = AutoModelForCausalLM.from_pretrained(MINI, output_loading_info=True, dtype=torch.float32)
    assert not any(loading.values())
    model, tokenizer = load("mini")
    text = "The weather today is fine, isn't it? 10:30 at the café."
    assert AutoTokenizer.from_pretrained(MINI)(text)["input_ids"] == tokenizer.encode(text)
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        assert torch.allclose(model(ids), theirs(ids).logits, atol=1e-4)


def test_it_has_learnt_english():
    """A sentence is likelier than its words in another order."""
    model, tokenizer = load("mini")

    def loss(text):
        ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(text)]])
        with torch.no_grad():
            return float(model.loss_sum(ids[:, :-1], ids[:, 1:]))

    for right, wrong in (
        ("I would like to book a table for two people.", "two for would people book like a to I table."),
        ("He went to the house of his father.", "House his the to of went father he."),
    ):
        assert loss(right) < loss(wrong)


def test_the_card_is_what_the_script_makes_of_the_log():
    made = runpy.run_path(str(asset("weights", "mini_card.py")))
    log, trials = (made["read_rows"](MINI / name) for name in ("train.jsonl", "trials.jsonl"))
    figures = json.loads((MINI / "figures.json").read_text(encoding="utf-8"))
    assert (MINI / "README.md").read_text(encoding="utf-8") == made["card_text"](figures, log, trials)


def test_the_card_says_how_many_documents_are_left_out():
    made = runpy.run_path(str(asset("weights", "mini_card.py")))
    log, trials = (made["read_rows"](MINI / name) for name in ("train.jsonl", "trials.jsonl"))
    figures = json.loads((MINI / "figures.json").read_text(encoding="utf-8"))
    for number, source in enumerate(figures["sources_read"].values()):
        source["excluded"] = 7 * (number == 1)
    card = made["card_text"](figures | {"excluded": {"rows": 1000, "documents": 7}}, log, trials)
    assert "7 documents are left out" in card and "1,000 rows" in card and "devils_dictionary_jargon 7." in card


def test_every_source_of_the_recipe_has_a_line_for_the_card():
    made = runpy.run_path(str(asset("weights", "mini_card.py")))
    assert set(load_pipeline("pretrain-mini").recipe.pretrain.shares) <= set(made["SOURCES"])


def test_the_scaling_fit_finds_a_law_that_is_there():
    made = runpy.run_path(str(asset("weights", "mini_card.py")))
    rows = [
        {
            "name": f"scale-{layers}",
            "layers": layers,
            "width": 32 * layers,
            "optimizer": "muon",
            "lr": 1,
            "mix": "",
            "batch_size": 8,
            "parameters": parameters,
            "tokens": tokens,
            "held_out": 9.0 * parameters**-0.07 * tokens**-0.11,
        }
        for layers, parameters in ((3, 1e6), (6, 7e6))
        for tokens in (2e5, 5e5, 1e6)
    ]
    found = made["scaling"](rows)
    assert [round(found[key], 6) for key in ("factor", "parameters", "tokens")] == [9.0, -0.07, -0.11]
    assert made["scaling"](rows[:4]) is None

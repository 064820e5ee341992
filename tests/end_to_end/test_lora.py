"""Adapters by the real command: trained, kept alone, merged for Hugging Face, and handed to peft."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

LORA = ["--set", "train.method=lora", "--set", "train.lora_rank=2", "--set", "train.threads=1"]


def read(*parts):
    return json.loads(Path(*parts).read_text(encoding="utf-8"))


def test_a_classifier_is_trained_merged_and_handed_to_peft(finetune, sms, tools):
    done = finetune("run", "spam-classifier", "--set", "weights=random-bytes", "--set", "train.epochs=1", *LORA)
    assert done.status == 0, done.err
    run = Path("runs/spam-classifier")
    assert (
        "in 33 tensors: body.blocks.0-3.attention.qkv.lora_*, body.blocks.0-3.attention.out.lora_*, "
        "body.blocks.0-3.mlp.up.lora_*, body.blocks.0-3.mlp.down.lora_*, head" in done.out
    )
    names = set(read(run, "stages", "04-train.json")["result"]["trainable"]["names"])
    checkpoint = sorted((run / "checkpoints").glob("step-*"))[-1]
    assert set(load_file(checkpoint / "weights.safetensors")) == names and len(names) == 33
    assert read(run, "eval.json")["method"] == "lora"
    tensors = load_file(run / "export" / "hf" / "model.safetensors")
    before = load_file(run / "base" / "model.safetensors")
    moved = {name for name in before if not torch.equal(tensors[name], before[name])}
    assert moved == {name for name in before if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))}

    with open(run / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    from transformers import AutoTokenizer, GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification.from_pretrained(run / "export" / "hf").eval()
    tokenizer, card = AutoTokenizer.from_pretrained(run / "export" / "hf"), read(run, "export", "hf", "bundle.json")
    with torch.inference_mode():
        logits = torch.cat(
            [model(**tokenizer(row["text"].removeprefix("'"), return_tensors="pt")).logits for row in rows]
        )
    probabilities = (logits / card["temperature"]).softmax(-1).numpy()
    written = np.array([[float(row["p_ham"]), float(row["p_spam"])] for row in rows])
    np.testing.assert_allclose(probabilities, written, atol=2e-6)

    again = finetune("export", run, "--format", "peft", "--out", "adapter")
    assert again.status == 0 and "peft gives the same logits" in again.out, again.err
    assert {path.name for path in Path("adapter").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "MANIFEST.json",
        "bundle.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "README.md",
    }
    guide = tools.run_guide("peft", Path("adapter").resolve())
    asked = tokenizer("a text", return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(guide["model"](**asked).logits, model(**asked).logits, atol=2e-5, rtol=0)
    assert "nothing left to do" in finetune("run", run / "recipe.json", "--name", "spam-classifier").out


def test_another_machine_does_not_choose_anew(finetune, toy_copy, monkeypatch):
    """A run that `auto` trained whole is evaluated as such, whatever it would stand for here."""
    monkeypatch.setattr("finetune.training.trainable.choose_method", lambda *_: ("head", "another machine"))
    before = (toy_copy / "predictions.csv").read_bytes()
    done = finetune("run", toy_copy / "recipe.json", "--name", "spam-classifier", "--from", "evaluate")
    assert done.status == 0 and (toy_copy / "predictions.csv").read_bytes() == before


def test_a_run_without_adapters_or_an_unknown_format_is_refused(finetune, toy_copy):
    refused = finetune("export", toy_copy, "--format", "peft")
    assert refused.status == 2 and "has no adapters; known: a run with method lora. Export it with" in refused.err
    unknown = finetune("export", toy_copy, "--format", "pickle")
    assert (
        unknown.status == 2 and "unknown export format; got 'pickle'; known: hf, peft, onnx, gguf, html" in unknown.err
    )


def test_a_language_model_is_trained_and_merged(finetune, tmp_path):
    (tmp_path / "text.txt").write_text("<|endoftext|>\n".join(f"the ferry left at {hour}\n" * 3 for hour in range(40)))
    done = finetune(
        "run",
        "pretrain",
        "--set",
        "data=text.txt",
        "--set",
        "weights=scratch",
        "--set",
        "shape.layers=2",
        "--set",
        "shape.width=32",
        "--set",
        "shape.context=32",
        "--set",
        "pretrain.val_fraction=0.2",
        "--set",
        "train.lr=0.01",
        *LORA,
    )
    assert done.status == 0, done.err
    evaluation = read("runs/pretrain/eval.json")
    before, after = (evaluation[state]["val"]["bits_per_byte"]["value"] for state in ("before", "after"))
    assert evaluation["method"] == "lora" and after < before - 0.1
    assert "transformers gives the same logits" in done.out
    again = finetune("export", "runs/pretrain", "--format", "peft")
    assert again.status == 0 and "peft gives the same logits" in again.out
    assert read("runs/pretrain/export/peft/adapter_config.json")["task_type"] == "CAUSAL_LM"


def test_a_target_that_is_not_a_layer_is_refused(finetune):
    refused = finetune(
        "run", "spam-classifier", "--set", "weights=random-bytes", *LORA, "--set", 'train.lora_targets=["c_attn"]'
    )
    assert refused.status == 2 and "no linear layer is called 'c_attn'; known: blocks.*.attention.qkv" in refused.err

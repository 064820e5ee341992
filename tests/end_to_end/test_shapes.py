"""Models of other shapes by the real command: made, trained, written, and gone on with by every task that takes them."""

import json
import random

import pytest
import torch

SIZES = ["shape.layers=2", "shape.width=32", "shape.heads=4", "shape.context=64"]
TEXT = ["data=text.txt", "weights=scratch", "train.lr=0.003", "train.epochs=1", "pretrain.val_fraction=0.2"]


def settings(*pairs):
    return [part for pair in (*pairs, "train.threads=1") for part in ("--set", pair)]


@pytest.fixture
def data(finetune, tmp_path):
    texts = [
        f"the ferry {name} left the pier at {hour}\nin the rain\n" for name in ("Anna", "Gull") for hour in range(20)
    ]
    (tmp_path / "text.txt").write_text("<|endoftext|>\n".join(texts))
    draw = random.Random(1)
    words = {"boat": ["ferry", "pier", "rain"], "food": ["lunch", "soup", "bread"]}
    rows = [f"{' '.join(draw.choices(words[label], k=4))} {i},{label}" for i in range(60) for label in words]
    (tmp_path / "my.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    records = [{"instruction": f"When does ferry {i} leave?", "output": f"At {i}."} for i in range(40)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pairs = [f"{n}\tnumber {n % 10} and {n // 10}" for n in range(100)]
    (tmp_path / "pairs.tsv").write_text("digits\twords\n" + "\n".join(pairs) + "\n")
    return tmp_path


def pretrained(finetune, data, *more):
    done = finetune("run", "pretrain", "--name", "made", *settings(*TEXT, *SIZES, *more))
    assert done.status == 0, done.err
    return data / "runs" / "made", done


def classified(finetune, data, start, method):
    more = settings("train.epochs=2", "train.lr=0.003", "evaluate.resamples=100")
    done = finetune("classify", "my.csv", "--weights", start, "--method", method, "--name", f"labels-{method}", *more)
    assert done.status == 0, done.err
    return data / "runs" / f"labels-{method}"


def test_a_llama_writes_answers_and_classifies(finetune, data):
    made, done = pretrained(finetune, data, "shape.preset=llama", "shape.kv_heads=2")
    assert "options: positions rotary, kv_heads 2, activation swiglu, norm rms, tied false, biases false" in done.out
    assert "transformers gives the same logits" in done.out
    assert json.loads((made / "export/hf/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    said = finetune("generate", made, "the ferry", "--max-new-tokens", "5", "--temperature", "0")
    assert said.status == 0 and said.out.startswith("the ferry")
    assert finetune("generate", made, "x", "--compile").status == 2

    asked = settings("data=asked.jsonl", f"weights={made}", "train.max_steps=2", "instruct.max_new_tokens=4")
    done = finetune("run", "instruct", *asked, *settings("train.method=full", "evaluate.resamples=100"))
    assert done.status == 0 and "transformers gives the same logits" in done.out, done.err

    bundle = classified(finetune, data, made, "lora")
    config = json.loads((bundle / "export/hf/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert finetune("predict", bundle, "soup and bread").status == 0
    refused = finetune("export", bundle, "--format", "peft")
    assert refused.status == 2 and "a from-scratch decoder, which this format does not support" in refused.err


def test_an_encoder_learns_hidden_words_and_classifies(finetune, data):
    made, done = pretrained(finetune, data, "pretrain.objective=masked", "train.epochs=2")
    evaluation = json.loads((made / "eval.json").read_text())
    loss = [evaluation[state]["val"]["log_loss"]["value"] for state in ("before", "after")]
    assert evaluation["headline"]["metric"] == "log_loss" and loss[1] < 0.95 * loss[0]
    assert json.loads((made / "export/hf/config.json").read_text())["model_type"] == "finetune-encoder"
    assert "nats per masked token" in (made / "report" / "index.html").read_text()
    assert "<|mask|>" in json.loads((made / "export/hf/vocab.json").read_text())

    bundle = classified(finetune, data, made, "last-blocks")
    assert json.loads((bundle / "export/hf/bundle.json").read_text())["labels"] == ["boat", "food"]
    assert "our own" in (bundle / "export/hf/README.md").read_text()
    assert finetune("predict", bundle, "soup and bread").status == 0
    assert finetune("draw", "attention", "--weights", made, "--text", "the ferry left").status == 0
    refused = finetune("generate", made, "x")
    assert refused.status == 2 and "an encoder cannot generate text" in refused.err

    more = settings("data=text.txt", f"weights={made}", "pretrain.val_fraction=0.2", "train.epochs=1")
    done = finetune("run", "pretrain", "--name", "more", *more, *settings("pretrain.objective=masked"))
    assert done.status == 0, done.err
    second = json.loads((data / "runs" / "more" / "eval.json").read_text())
    assert second["before"]["val"] == evaluation["after"]["val"]


def test_an_encoder_begins_with_a_gpts_weights(finetune, data):
    made, _ = pretrained(finetune, data)
    more = settings("data=text.txt", f"weights={made}", "pretrain.val_fraction=0.2", "train.epochs=1")
    done = finetune("run", "pretrain", "--name", "both-ways", *more, *settings("pretrain.objective=masked"))
    assert done.status == 0 and "the vocabulary has no <|mask|>" in done.out, done.err
    config = json.loads((data / "runs/both-ways/export/hf/config.json").read_text())
    assert (config["model_type"], config["vocab_size"]) == ("finetune-encoder", 258)


def test_an_encoder_decoder_from_nothing_draws_each_side(finetune, data):
    from finetune.checkpoints.layouts import load_directory

    sizes = ["shape.preset=vanilla", "shape.layers=1", "shape.width=16", "shape.heads=2"]
    run = settings("data=pairs.tsv", "weights=scratch", *sizes, "train.max_steps=2", "evaluate.resamples=100")
    done = finetune("run", "seq2seq", *run, *settings("seq2seq.max_new_tokens=4"))
    assert done.status == 0 and "tokens learned from the training pairs" in done.out, done.err
    model = load_directory(data / "runs" / "seq2seq" / "base").model
    sides = [side.blocks[0].attention.qkv.weight for side in (model.encoder, model.decoder)]
    assert not torch.equal(*sides) and model.config.vocab_size == 5000 and model.config.norm == "post"
    assert finetune("generate", data / "runs" / "seq2seq", "12", "--max-new-tokens", "2").status == 0


@pytest.mark.parametrize(
    "pipeline, pairs, words",
    [
        (
            "pretrain",
            ["weights=scratch", "shape.preset=vanilla"],
            "vanilla is an encoder-decoder; known: the task seq2seq",
        ),
        ("pretrain", ["weights=scratch", "shape.window=4"], "used only with shape.attention=local or strided"),
        ("pretrain", ["shape.positions=rotary", "weights=mini"], "used only with weights=scratch"),
        ("pretrain", ["weights=scratch", "shape.kv_heads=3"], "kv_heads does not divide the 4 heads"),
        (
            "pretrain",
            ["weights=scratch", "shape.preset=llama", "pretrain.objective=masked"],
            "output matrix is the token embedding; got tied false; known: tied true. For new weights",
        ),
        (
            "pretrain",
            ["weights=scratch", "shape.shared_blocks=true", "train.method=last-blocks"],
            "all layers share the weights of one block; got method last-blocks",
        ),
        (
            "seq2seq",
            ["weights=scratch", "shape.preset=vanilla", "seq2seq.family=decoder"],
            "vanilla is an encoder-decoder",
        ),
        ("spam-methods", ["weights=ENCODER"], "a comparison starts from GPT-2's weights; got an encoder's weights"),
        ("instruct", ["weights=ENCODER"], "an encoder's weights; known: a GPT's or a from-scratch decoder's"),
        ("seq2seq", ["weights=ENCODER"], "an encoder's weights; known"),
        ("tagger", ["weights=BOTH"], "an encoder-decoder's weights; known: a GPT's or"),
        (
            "pretrain",
            ["weights=ENCODER"],
            "this objective cannot start from an encoder's weights; got pretrain.objective=next-token",
        ),
    ],
)
def test_what_is_not_supported_is_refused_before_a_run_is_made(finetune, data, encoder, both, pipeline, pairs, words):
    given = [pair.replace("ENCODER", str(encoder)).replace("BOTH", str(both)) for pair in pairs]
    found = finetune("run", pipeline, *settings(*given))
    assert found.status == 2 and words in found.err and not (data / "runs").exists()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder's checkpoint."""
    from finetune.checkpoints.own_layout import write_own
    from finetune.models.encoder import Encoder
    from finetune.models.transformer import TransformerConfig
    from finetune.tokenizer import MASK, Tokenizer

    directory, tokenizer = tmp_path_factory.mktemp("encoder") / "encoder", Tokenizer.of_bytes().with_tokens(MASK)
    config = TransformerConfig(tokenizer.vocab_size, context=32, width=16, layers=1, heads=2)
    write_own(directory, Encoder(config).initialise(1), tokenizer)
    return directory


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """An encoder-decoder's checkpoint."""
    from finetune.checkpoints.own_layout import write_own
    from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
    from finetune.tokenizer import Tokenizer

    directory, tokenizer = tmp_path_factory.mktemp("both") / "both", Tokenizer.of_bytes()
    config = EncoderDecoderConfig(tokenizer.vocab_size, context=32, width=16, layers=1, heads=2)
    write_own(directory, EncoderDecoder(config).initialise(1), tokenizer)
    return directory

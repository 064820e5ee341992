"""Every number of xray is the model's own, and its page runs nothing of the text."""

import json
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.adapters.lora import LoRALinear, add_lora
from finetune.checkpoints.store import write_checkpoint
from finetune.commands.xray.look import look_at, read_ids, residual_stream, unpacked
from finetune.commands.xray.moved import compare
from finetune.commands.xray.xray import look_inside, render, xray
from finetune.errors import RecipeError, WeightsError
from finetune.models.gpt import GPT, GPTConfig
from finetune.tokenizer import Tokenizer

TEXT = "The </script><script>hurt()</script> river"
CONFIG = GPTConfig(257, 64, 32, 3, 4)


def tiny_gpt(seed):
    return GPT(CONFIG).initialise(seed, std=0.2).eval()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two language models of one shape."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, seed in (("base", 1), ("tuned", 2)):
        write_checkpoint(folder / name, tiny_gpt(seed), Tokenizer.of_bytes())
    return folder / "base", folder / "tuned"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, checkpoints):
    """A classifier that started from the first of them."""
    from finetune.estimator import TextClassifier

    texts = ["win cash", "lunch home", "prize now", "mum later"] * 6
    directory = tmp_path_factory.mktemp("bundles") / "spam"
    settings = {"weights": checkpoints[0], "epochs": 2, "lr": 1e-2, "batch_size": 8}
    TextClassifier(**settings).fit(texts, ["spam", "ham"] * 12).save(directory)
    return directory


def test_surprise_and_the_last_layer_are_transformers(checkpoints):
    from transformers import GPT2LMHeadModel

    found = look_inside(str(checkpoints[1]), TEXT, None).after
    theirs = GPT2LMHeadModel.from_pretrained(checkpoints[1], attn_implementation="eager").eval()
    ids = torch.tensor([[token.id for token in found.tokens]])
    with torch.no_grad():
        said = theirs(ids, output_hidden_states=True, output_attentions=True)
    log_p = said.logits[0].log_softmax(-1)
    bits = -log_p[:-1].gather(1, ids[0, 1:, None])[:, 0] / np.log(2)
    assert found.surprise[0] is None and found.surprise[1:] == pytest.approx(bits.tolist(), abs=1e-4)
    assert (found.layers, found.heads, len(found.lens)) == (3, 4, 4)
    for layer, state in enumerate(said.hidden_states):
        if layer < 3:  # their last one has been through the final norm
            state = theirs.transformer.ln_f(state)
        p = F.linear(state[0], theirs.lm_head.weight).softmax(-1).detach()
        for at, guess in enumerate(found.lens[layer]):
            assert guess.probabilities == pytest.approx(p[at].topk(3).values.tolist(), rel=1e-3)
            assert guess.next is None or guess.next == pytest.approx(float(p[at, ids[0, at + 1]]), rel=1e-3)
    assert found.lens[-1][-1].next is None
    np.testing.assert_allclose(unpacked(found), torch.stack(said.attentions)[:, 0], atol=2e-5)


def test_a_classifiers_last_layer_is_its_prediction(bundle, checkpoints):
    from finetune.tasks.classify.bundle import Bundle

    found = look_inside(str(bundle), "win a prize", str(checkpoints[0]))
    ready = Bundle.load(bundle)
    names, probabilities = ready.predict(["win a prize"])
    assert found.after.labels[-1] == pytest.approx(probabilities[0].tolist(), abs=1e-5)
    assert found.labels[found.decided] == names[0] and len(found.after.labels) == 4
    assert found.after.tokens[0].text == "w"  # as a classifier reads it, without a token in front
    ids = torch.tensor([read_ids(ready.tokenizer, "win a prize", 64, ready)])
    states = residual_stream(ready.model.body, ids)
    with torch.no_grad():
        torch.testing.assert_close(states[-1], ready.model.body.hidden_states(ids)[0])
        early = ready.probabilities(F.linear(states[1, -1:], ready.model.head.weight).numpy())
    assert found.after.labels[1] == pytest.approx(early[0].tolist(), abs=1e-6)
    assert found.before.name == "base" and found.before.surprise != found.after.surprise


def test_the_change_is_that_of_the_weights(checkpoints):
    before, after = tiny_gpt(1), tiny_gpt(2)
    moved = look_inside(str(checkpoints[1]), "a b", str(checkpoints[0])).moved
    assert moved.left_out == [] and len(moved.tensors) == len(before.state_dict())
    old, new = before.state_dict(), after.state_dict()
    for own in moved.tensors:
        change = float((new[own.name] - old[own.name]).norm())
        assert own.norm == pytest.approx(change, rel=1e-5) and own.singular is None
        assert own.share == pytest.approx(change / float(old[own.name].norm()) if change else 0.0, rel=1e-5)


def test_singular_values_are_those_of_loras_update():
    before, after = tiny_gpt(1), tiny_gpt(1)
    add_lora(after, 2, 8.0, 0.0, ("attention.qkv",), seed=0)
    updates = {}
    for name, layer in list(after.named_modules()):
        if isinstance(layer, LoRALinear):
            with torch.no_grad():
                layer.lora_B.normal_(generator=torch.Generator().manual_seed(3))
            updates[f"{name}.weight"] = (layer.lora_B @ layer.lora_A).detach() * 4
            parent, _, last = name.rpartition(".")
            setattr(after.get_submodule(parent), last, layer.merged())
    moved = {own.name: own for own in compare(before, after, rank=2).tensors}
    for name, update in updates.items():
        assert moved[name].singular == pytest.approx(np.linalg.svd(update.numpy())[1][:2].tolist(), rel=1e-4)
        assert moved[name].norm == pytest.approx(float(update.norm()), rel=1e-4)
    others = [own for name, own in moved.items() if name not in updates]
    assert len(updates) == 3 and all(own.norm == 0 and own.singular is None for own in others)


def test_merges_end_in_the_tokens(checkpoints):
    from finetune.commands.xray.look import merges_of
    from finetune.hub.assets import asset

    tokenizer = Tokenizer.from_directory(asset("weights", "mini"))
    found = merges_of(tokenizer, "The rivers flooded.")
    assert "".join(part for piece in found for part in piece.steps[-1]) == "The rivers flooded."
    parts = [part for piece in found for part in piece.steps[-1]]
    assert parts == [tokenizer.label(token) for token in tokenizer.encode("The rivers flooded.")]
    assert all(len(piece.steps[0]) == len(piece.text.encode()) for piece in found)


@pytest.mark.parametrize(
    ("text", "against", "kind", "said"),
    [
        (" ", None, RecipeError, "the text is empty"),
        ("a" * 64, None, RecipeError, "65 tokens; known: 64 at most"),
        ("a", "mini", WeightsError, "another tokenizer"),
    ],
)
def test_what_cannot_be_shown_is_said(checkpoints, text, against, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        look_inside(str(checkpoints[0]), text, against)


def test_an_encoder_decoder_is_refused(tmp_path):
    from finetune.checkpoints.own_layout import write_own
    from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig

    shape = {"vocab_size": 257, "context": 16, "width": 16, "layers": 1, "heads": 2}
    model = EncoderDecoder(EncoderDecoderConfig(**shape, encoder_layers=1)).initialise(0)
    write_own(tmp_path / "model", model, Tokenizer.of_bytes())
    with pytest.raises(WeightsError, match="xray does not support"):
        look_inside(str(tmp_path / "model"), "a", None)
    with pytest.raises(RecipeError, match="not the name of an HTML file"):
        xray(str(tmp_path / "model"), "a", None, tmp_path / "x.csv")


def test_the_page_holds_the_numbers_and_needs_nothing_else(checkpoints, tmp_path):
    line = xray(str(checkpoints[1]), TEXT, str(checkpoints[0]), tmp_path / "x.html")
    assert "43 tokens in 3 layers, beside" in line
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "unsafe" not in page and "http" not in page.replace("http-equiv", "")
    [held] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    found = look_inside(str(checkpoints[1]), TEXT, str(checkpoints[0]))
    assert json.loads(held) == json.loads(json.dumps(found.to_json()))
    assert render(found, "<b>").count("&lt;b&gt;") == 2


def test_the_page_works_in_a_browser(browser, bundle, checkpoints, tmp_path):
    xray(str(bundle), "win <img src=x onerror=hurt()>", str(checkpoints[0]), tmp_path / "x.html")
    browser.open(tmp_path / "x.html")
    assert browser.run("document.querySelectorAll('.grid button').length") == 2 * 3 * 4
    browser.run("document.querySelectorAll('.token')[3].click()")
    assert browser.run("document.getElementById('token').textContent").startswith("Token 3: “␣”")
    browser.run("document.querySelectorAll('.grid button')[5].click()")
    assert browser.run("document.querySelector('#head h3').textContent") == "Layer 2, head 2"
    shown = browser.run("[...document.querySelectorAll('#head td[title]')].map((cell) => cell.title.split(': ').pop())")
    found = look_inside(str(bundle), "win <img src=x onerror=hurt()>", str(checkpoints[0]))
    expected = [unpacked(look)[1, 1][np.tril_indices(len(look.tokens))] for look in (found.before, found.after)]
    np.testing.assert_allclose(np.array(shown, float), np.concatenate(expected), atol=1e-4)
    assert "The model decides for" in browser.run("document.getElementById('decides').textContent")
    assert browser.run("document.querySelectorAll('#moved tbody tr').length") > 20
    browser.open(tmp_path / "x.html", 390, 900, dark=True)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.errors == [] and all(own.startswith("file:") for own in browser.requests)


def test_a_look_reads_what_generate_reads(checkpoints):
    tokenizer = Tokenizer.of_bytes()
    found = look_at("x", tiny_gpt(1), tokenizer, "ab")
    assert [token.id for token in found.tokens] == [tokenizer.end_of_text, *tokenizer.encode("ab")]
    assert [token.bytes for token in found.tokens] == ["", "61", "62"]

"""A page that runs: the same tokens, logits, decisions and text as ours in int8, in a browser without a network."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import RunError, WeightsError
from finetune.evaluation.results import StartWeights
from finetune.export import html
from finetune.export.card import Card
from finetune.export.cost import Rule
from finetune.export.exportable import Conversation, Exportable
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.few_bits import quantize_rows, rounded_copy
from finetune.models.generate import generate
from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.models.heads import Classifier
from finetune.models.packed import few_bits_decoder
from finetune.models.plain_attention import attention_maps
from finetune.models.transformer import Transformer, TransformerConfig
from finetune.tasks.classify.bundle import BundleCard
from finetune.tasks.classify.export import exportable
from finetune.tokenizer import Tokenizer
from finetune.training.pieces import average, pieces_of
from finetune.training.predict import predict_logits

WEIGHTS = StartWeights("mini", "here", "", {}, fallback=False, note="")
HOSTILE = "</script><script>hurt()</script><img src=x onerror=hurt()>"
LABELS = ["ham", HOSTILE, "&amp;"]
TEXTS = [
    "The river was wide, and nobody's boat was there. I'll go; they've gone.",
    "",
    "  two   blanks\n\nand lines\t\r\n ",
    "naïve façade 12345 ½ ² Ⅷ ٣٤٥",
    "日本語のテキスト、中文字符。 한국어 문장",
    "العربية والعِبْرִית हिन्दी ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 😀😀 👍🏽 e\u0301",
    "no\u0085break\u00a0and\u2003wide\ufeff\u200bend\u180e \u3000",
    "<|endoftext|> and <|pad|>",
    "sss lllll 111 --- !!! ee",  # of two equal merges the first
    "don'T CAN'T 'S 're x're ''ll",
    HOSTILE,
    "a" * 300 + " " * 40 + "\x00\x07\x1b",
]


@pytest.fixture(scope="module")
def small():
    """A small model under the bundled model's tokenizer."""
    from finetune.hub.assets import asset

    tokenizer = Tokenizer.from_directory(asset("weights", "mini"))
    return GPT(GPTConfig(tokenizer.vocab_size, 64, 32, 3, 2)).initialise(0, std=0.2).eval(), tokenizer


def language_model(small, **more):
    model, tokenizer = small
    ids = tokenizer.encode("The river was wide and the water was cold.")
    rows = [(ids[:at], [IGNORE] * (at > 4) + ids[1 + (at > 4) : at + 1]) for at in range(4, len(ids))]
    card = Card("text-generation", WEIGHTS)
    return Exportable(HOSTILE, model, tokenizer, lambda _: "", card=card, held_out=lambda: iter(rows), **more)


def classifier(small, labels=LABELS, texts=TEXTS[3:7], max_length=24, **rule):
    model, tokenizer = small
    ready = Classifier(model, len(labels)).initialise_head(1).eval()
    ready.head.weight.data *= 30
    card = BundleCard(
        schema_version=1,
        task="classify",
        labels=labels,
        positive=None,
        max_length=max_length,
        threshold=None,
        temperature=1.5,
        weights=WEIGHTS,
        tokenizer_sha256=tokenizer.fingerprint(),
        data_sha256="",
        recipe_sha256="",
        **rule,
    )
    targets = np.arange(len(texts)) % len(labels)
    return exportable(HOSTILE, ready, tokenizer, card, texts, [], targets=targets)


def tiny_language_model(**more):
    model = GPT(GPTConfig(257, 32, 16, 2, 2)).initialise(0, std=0.2).eval()
    return Exportable("tiny", model, Tokenizer.of_bytes(), lambda _: "", **more)


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    """Both kinds of page, by name: its directory, what was passed, and what was found."""
    folder = tmp_path_factory.mktemp("pages")
    things = {"writer": language_model(small), "labels": classifier(small)}
    return {name: (folder / name, thing, html.write(thing, folder / name)) for name, thing in things.items()}


@pytest.fixture
def page(browser, written):
    """``page(name)`` opens a page whose model is ready; afterwards nothing of its texts ran, and nothing was asked for."""

    def opened(name, **window):
        browser.open(written[name][0] / html.FILE, **window)
        browser.run("ready.then(() => 0)")
        return browser

    yield opened
    assert browser.errors == [] and len(browser.requests) == 1 and browser.requests[0].startswith("file:")
    assert browser.run("document.querySelectorAll('main img, main script, iframe').length") == 0


def relative(found, expected):
    """The largest difference, as a share of the largest value."""
    found, expected = (np.asarray(own, dtype=np.float64) for own in (found, expected))
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_mini_takes_less_than_half_more_than_its_int8_weights_and_computes_the_same(browser, tmp_path):
    from finetune.checkpoints.sources import load

    model, tokenizer = load("mini")
    html.write(Exportable("mini", model, tokenizer, lambda _: ""), tmp_path / "page")
    size, page = sum(own.numel() for own in model.parameters()), tmp_path / "page" / html.FILE
    assert size < page.stat().st_size <= 1.5 * size
    about = json.loads((tmp_path / "page" / html.ABOUT).read_text())
    assert (about["int8_bytes"], about["page_bytes"]) == (size, page.stat().st_size)
    browser.open(page)
    browser.run("ready.then(() => 0)")
    ids = [tokenizer.end_of_text, *tokenizer.encode("The river")]
    with torch.inference_mode():
        ours = rounded_copy(model)(torch.tensor([ids]))[0, -1].numpy()
    assert relative(browser.run(f"logitsOf({ids}).then((found) => [...found])"), ours) < 1e-4  # 1e-3 is promised


def test_it_holds_the_int8_rows_of_generation(written):
    directory, thing, _ = written["labels"]
    held = html.read_page(directory / html.FILE)
    assert held.keys() == thing.model.state_dict().keys()
    for name, own in thing.model.named_parameters():
        if own.ndim == 2:
            levels, scale = quantize_rows(own)
            assert torch.equal(held[name], levels * scale[:, None]), name
        else:
            assert torch.equal(held[name], own), name


def test_the_policy_allows_its_own_script_and_no_request(written):
    page = (written["labels"][0] / html.FILE).read_text(encoding="utf-8")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert set(rules) == {"default-src", "base-uri", "form-action", "script-src", "style-src"}
    assert all(re.fullmatch(r"'sha256-[^' ]+'", rules[name]) for name in ("script-src", "style-src"))


def test_its_cost_is_that_of_the_rounded_model(written):
    directory, thing, found = written["writer"]
    rounded, rows = rounded_copy(thing.model), list(thing.held_out())
    losses = []
    with torch.no_grad():
        for model in (thing.model, rounded):
            sums = [float(model.loss_sum(*(torch.tensor([part]) for part in row))) for row in rows]
            losses.append(sum(sums) / sum(target != IGNORE for _, targets in rows for target in targets))
    about = html.PageCard.from_json(json.loads((directory / html.ABOUT).read_text()), "page.json")
    assert (about.cost.before, about.cost.after) == pytest.approx(losses, rel=1e-6)
    assert about.cost.change == pytest.approx(losses[1] - losses[0], abs=1e-6) and about.cost.change != 0
    assert about.cost.low <= about.cost.change <= about.cost.high and about.cost.n == len(rows)
    assert about.cost_said in found.summary and about.cost_said in (directory / "README.md").read_text()


def test_a_classifiers_cost_is_in_its_decisions(written):
    directory, thing, found = written["labels"]
    rule, ids = Rule.of(thing), [thing.tokenizer.encode(text)[:24] for text in thing.texts]
    decided = [predict_logits(model, ids).argmax(1) for model in (thing.model, rounded_copy(thing.model))]
    about = html.PageCard.from_json(json.loads((directory / html.ABOUT).read_text()), "page.json")
    assert about.cost.before == (decided[0] == thing.targets).mean() and rule.temperature == 1.5
    assert about.cost.after == (decided[1] == thing.targets).mean() and about.cost.n == 4
    assert (
        f"a different decision from fp32 on {(decided[0] != decided[1]).sum()} of 4 test texts (95 %" in found.summary
    )


def test_another_number_in_the_file_is_noticed(tmp_path, monkeypatch):
    right = html._render

    def wrong(*given):
        page = right(*given)
        at = page.index('id="weights">') + 5000
        return page[:at] + ("B" if page[at] != "B" else "C") + page[at + 1 :]

    monkeypatch.setattr(html, "_render", wrong)
    with pytest.raises(WeightsError, match="reads the export differently"):
        html.write(tiny_language_model(), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_what_is_no_page_is_refused_in_words(tmp_path):
    with torch.device("meta"):
        large = GPT(GPTConfig())
    thing = replace(tiny_language_model(), model=large)
    with pytest.raises(
        RunError, match=r"too large for a page.*got 124 MB of int8 weights, 166 MB of HTML; known: up to 34 MB"
    ):
        html.write(thing, tmp_path / "page")
    shape = {"vocab_size": 257, "context": 16, "width": 16, "layers": 1, "heads": 2}
    pairs = replace(thing, model=EncoderDecoder(EncoderDecoderConfig(**shape, encoder_layers=1)))
    with pytest.raises(RunError, match="does not support"):
        html.write(pairs, tmp_path / "page")
    other = replace(thing, model=Classifier(Transformer(TransformerConfig(**shape)), 2))
    with pytest.raises(RunError, match="a from-scratch decoder, which this format does not support"):
        html.write(other, tmp_path / "page")
    with pytest.raises(RunError, match="a model for text2text-generation, which this format does not support"):
        html.write(tiny_language_model(card=Card("text2text-generation", WEIGHTS)), tmp_path / "page")
    with pytest.raises(RunError, match="a head of its own"):
        html.write(tiny_language_model(layout=lambda _: None), tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("style", ["alpaca", "chat", "plain", "{instruction}, {instruction}?"])
def test_a_question_is_put_as_in_training(style):
    from finetune.tasks.instruct.examples import conversation_ids
    from finetune.tasks.instruct.prompts import chat_template
    from finetune.tasks.instruct.records import Dialogue, Message
    from finetune.tasks.instruct.settings import Instruct

    settings = Instruct(template=style) if "{" in style else Instruct(style=style)
    question, tokenizer = "Name <b> a & colour.", Tokenizer.of_bytes()
    prompt = conversation_ids(Dialogue(0, [Message("user", question)]), tokenizer, settings)
    messages = [{"role": "user", "content": question}]
    template = {"chat_template": chat_template(settings)}
    thing = tiny_language_model(tokenizer_settings=template, conversations=[Conversation(messages, prompt)])
    assert question.join(html._prompt(thing)) == tokenizer.decode(prompt)
    with pytest.raises(WeightsError, match="another prompt"):
        html._prompt(replace(thing, conversations=[Conversation(messages, prompt[:-1])]))


def test_tokens_are_tiktokens(page, small):
    browser, (_, tokenizer) = page("writer"), small
    found = browser.run(f"{json.dumps(TEXTS)}.map((text) => tokenizer.encode(text))")
    assert found == [tokenizer.encode(text) for text in TEXTS]
    assert browser.run(f"{json.dumps(found)}.map((ids) => tokenizer.decode(ids))") == TEXTS
    ids = sorted({*sum(found, []), *tokenizer.special_tokens.values(), *range(256)})
    labels = browser.run(f"{json.dumps(ids)}.map((id) => tokenizer.label(id))")
    assert labels == [tokenizer.label(token) for token in ids]


def test_logits_surprise_and_attention_are_ours_in_int8(page, small):
    browser, (model, tokenizer) = page("writer"), small
    rounded = rounded_copy(model)
    browser.run("document.getElementById('new-tokens').value = 0")
    for text in (TEXTS[0], TEXTS[4], "x"):
        ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(text)]])
        with torch.inference_mode():
            ours = rounded(ids)[0]
            decoder = few_bits_decoder(rounded, "int8", compiled=False)  # what ``generate --dtype int8`` computes with
            last = decoder.next_logits(ids, decoder.new_cache(ids.shape[1]))[0]
        states = f"(model.clear(), model.read({ids[0].tolist()}))"
        every = np.array(browser.run(f"{states}.then((states) => [...model.logits(states)])")).reshape(ours.shape)
        assert relative(every, ours.numpy()) < 1e-4 and relative(every[-1], last.numpy()) < 1e-4
        maps = browser.run("model.maps.map((rows) => rows.map((row) => [...row]))")
        [expected] = attention_maps(rounded, ids).values()
        for head, rows in enumerate(maps):
            for query, row in enumerate(rows):
                np.testing.assert_allclose(row, expected.flatten(0, 2)[head, query, : query + 1], atol=1e-5)
        browser.run(f"document.getElementById('text').value = {json.dumps(text)}")
        browser.run("run(new Event('submit'))")
        bits = -ours.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0] / np.log(2)
        assert browser.run("shown.surprise")[1:] == pytest.approx(bits.tolist(), rel=1e-4, abs=1e-4)


def test_it_writes_our_greedy_text_stops_and_says_where_the_context_ends(page, small):
    browser, (model, tokenizer) = page("writer"), small
    assert "computes the same logits as" in browser.run("document.getElementById('check').textContent")
    browser.run("document.getElementById('text').value = 'The <b> river'")
    browser.run("document.getElementById('new-tokens').value = 30")
    browser.run("run(new Event('submit'))")
    ids = [tokenizer.end_of_text, *tokenizer.encode("The <b> river")]
    decoder = few_bits_decoder(rounded_copy(model), "int8", compiled=False)
    ours = generate(decoder, torch.tensor([ids]), 30, temperature=0.0, end=tokenizer.end_of_text)[0].tolist()
    assert browser.run("shown.ids") == ours
    assert browser.run("document.getElementById('written').textContent") == tokenizer.decode(ours[1:])
    assert browser.run("document.getElementById('state').textContent") == "30 new tokens."
    browser.run("document.getElementById('new-tokens').value = 1000")
    browser.run("var calls = 0")
    browser.run("pick = () => (++calls === 5 && document.getElementById('stop').click(), 100)")
    browser.run("run(new Event('submit'))")
    assert browser.run("document.getElementById('state').textContent") == "5 new tokens; stopped."
    browser.run(f"document.getElementById('text').value = {json.dumps(' a' * 60)}")
    browser.run("run(new Event('submit'))")
    said = browser.run("document.getElementById('state').textContent")
    assert said == f"{65 - 1 - len(tokenizer.encode(' a' * 60))} new tokens; the context of 64 tokens is full."
    browser.run(f"document.getElementById('text').value = {json.dumps(' a' * 90)}")
    browser.run("run(new Event('submit'))")
    assert "more than the model's context of 64" in browser.run("document.getElementById('state').textContent")


def test_it_draws_by_the_temperature(page):
    browser = page("writer")
    draws = browser.run("Array.from({ length: 4000 }, () => pick([0, Math.log(4), -50], 2))")
    assert np.mean(np.array(draws) == 1) == pytest.approx(2 / 3, abs=0.05) and 2 not in draws
    assert browser.run("pick([0, 3, 3], 0)") == 1


RULES = [
    {},
    {"costs": [[0, 1, 1], [1, 0, 1], [9, 9, 0]]},
    {"thresholds": [0.3, 0.5, 0.01]},
    {"labels": LABELS[:2], "positive": LABELS[1], "threshold": 0.2},
    {"labels": LABELS[:2], "positive": LABELS[1], "threshold": 0.8},
]


def test_labels_and_probabilities_are_ours_in_int8(page, written):
    browser, (_, thing, _) = page("labels"), written["labels"]
    texts = [*TEXTS[3:7], HOSTILE, "x"]
    ids = [thing.tokenizer.encode(text)[:24] for text in texts]
    logits = predict_logits(rounded_copy(thing.model), ids)
    found = browser.run(
        f"Promise.all({json.dumps(texts)}.map((text) => text)).then(async (texts) => {{"
        "const all = []; for (const text of texts) all.push(await classify(text)); return all; })"
    )
    assert [own["ids"] for own in found] == ids
    assert relative([own["logits"] for own in found], logits) < 1e-4
    whole = json.loads(thing.files["bundle.json"])
    for changes in RULES:
        ours = Rule.of(replace(thing, files={"bundle.json": json.dumps(whole | changes)}))
        K = len(ours.labels)
        p = ours.probabilities(logits[:, :K])
        fresh = {"labels": LABELS, "positive": None, "threshold": None, "thresholds": None, "costs": None} | changes
        browser.run(f"void Object.assign(rule, {json.dumps(fresh)})")
        said = browser.run(f"{json.dumps([own['logits'][:K] for own in found])}.map(decide)")
        np.testing.assert_allclose([own["p"] for own in said], p, atol=1e-5)
        decided = ours.decide(p)
        decided = decided if decided.ndim == 2 else np.arange(K) == decided[:, None]
        assert [own["decided"] for own in said] == decided.tolist()


def test_long_texts_are_read_as_in_training(page, written):
    browser, (_, thing, _) = page("labels"), written["labels"]
    text, rounded = " ".join(TEXTS[:4]), rounded_copy(thing.model)
    for way in ("cut", "head-tail", "windows"):
        pieces = pieces_of(thing.tokenizer.encode(text), way, 24)
        assert (len(pieces) > 2) == (way == "windows")
        expected = average(predict_logits(rounded, pieces), np.array([len(pieces)]))[0]
        browser.run(f"rule.long_texts = {json.dumps(way)}")
        found = browser.run(f"classify({json.dumps(text)})")
        assert found["pieces"] == len(pieces) and found["ids"] == pieces[0]
        assert relative(found["logits"], expected) < 1e-4


def test_white_space_is_folded_as_in_training(page):
    from finetune.tables.white_space import fold_white_space

    browser = page("labels")
    odd = "\u2028 a\u00adb\u200b \u00a0c\u2003\x1cd\x85\u3000e\ufeff\r\n\u202af "
    browser.run("rule.white_space = 'fold'")
    found = browser.run(f"classify({json.dumps(odd)}).then(({{ ids }}) => tokenizer.decode(ids))")
    assert found == fold_white_space(odd) == "ab c d e f"


def test_a_label_is_shown_with_its_cost_and_its_inside(page, written):
    browser, (_, thing, _) = page("labels", width=390, dark=True), written["labels"]
    browser.run(f"document.getElementById('text').value = {json.dumps(HOSTILE)}")
    browser.run("document.getElementById('form').requestSubmit()")
    browser.until("!document.getElementById('inside').hidden && !document.getElementById('go').disabled")
    ids = thing.tokenizer.encode(HOSTILE)[:24]
    [logits] = predict_logits(rounded_copy(thing.model), [ids])
    assert browser.run("document.querySelector('.answer').textContent") == LABELS[logits.argmax()]
    assert browser.run("document.querySelectorAll('.grid button').length") == 3 * 2
    assert browser.run("document.querySelectorAll('.token').length") == len(ids)
    browser.run("document.querySelectorAll('.grid button')[5].click()")
    assert browser.run("document.querySelector('#head h3').textContent") == "Layer 3, head 2"
    about = json.loads((written["labels"][0] / html.ABOUT).read_text())
    assert about["cost_said"] in browser.run("document.getElementById('cost').textContent")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    browser.run("Object.assign(rule, { abstain_below: 1.1 }); run(new Event('submit'))")
    assert browser.run("document.querySelector('.answer').textContent").startswith("no decision (")
    browser.run("document.getElementById('text').value = ' '; rule.white_space = 'fold'; run(new Event('submit'))")
    assert browser.run("document.getElementById('state').textContent") == "The text is empty."


def test_an_answer_begins_after_the_prompt_and_ends_at_a_stop(browser, tmp_path):
    template = {"chat_template": "{{- 'Q: ' + messages[0]['content'] + '\\nA:' -}}"}
    html.write(tiny_language_model(tokenizer_settings=template, stop=["\nQ:"]), tmp_path / "page")
    browser.open(tmp_path / "page" / html.FILE)
    browser.run("ready.then(() => 0)")
    letters = "[...' yes\\nQ: more']"
    browser.run(f"var said = {letters}.map((letter) => tokenizer.ids.get(letter))")
    browser.run("pick = () => said.shift()")  # what the model would say
    browser.run("document.getElementById('text').value = 'why'")
    browser.run("run(new Event('submit'))")
    assert browser.run("tokenizer.decode(shown.ids)") == "Q: why\nA: yes\nQ:"
    assert browser.run("document.getElementById('written').textContent") == "yes"
    assert "the end of the answer" in browser.run("document.getElementById('state').textContent")
    assert browser.errors == []


def test_other_arithmetic_is_said_on_the_page(browser, tmp_path):
    html.write(tiny_language_model(), tmp_path / "page")
    path = Path(tmp_path / "page" / html.FILE)
    text = path.read_text(encoding="utf-8")
    [check] = re.findall(r'"check":(\{.*?\})', text)
    known = json.loads(check)
    known["logits"][5] += 1
    path.write_text(text.replace(check, json.dumps(known)), encoding="utf-8")
    browser.open(path)
    browser.run("ready.then(() => 0)")
    assert "do not trust" in browser.run("document.getElementById('check').textContent")

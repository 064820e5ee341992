"""The page in a real browser: classify, move the threshold, drop a table, chat, stop; nothing of the data runs."""

import csv
import importlib.util
import io
import json
import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def classifier(server, classifier_run):
    with server(classifier_run) as running:
        yield running


@pytest.fixture(scope="module")
def talk(server, instruct_run):
    with server(instruct_run) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_else_is_asked_for(browser):
    """No error, no dialog, no request to another host; the hostile texts and labels ran nothing."""
    yield
    assert browser.errors == []
    assert browser.requests and all(own.startswith(("http://127.0.0.1:", "data:")) for own in browser.requests)
    assert browser.run("document.querySelectorAll('main img, main script, iframe').length") == 0


def submit(browser, field, text, form):
    """Type a text into a field, and send its form."""
    browser.run(f"document.getElementById('{field}').value = {json.dumps(text)}")
    browser.run(f"document.getElementById('{form}').requestSubmit()")


def cells(browser):
    """The cells of the predictions, but for the button."""
    script = "[...document.querySelectorAll('#predictions-rows tr')].map(r => [...r.cells].map(c => c.textContent))"
    return [row[:4] for row in browser.run(script)]


def test_texts_are_classified_explained_and_thresholds_move(browser, classifier, classifier_run, words):
    from finetune.tasks.classify.bundle import open_bundle

    texts = ["<script>hurt()</script> prize <b>win</b>", "lunch at home", "claim <img src=x onerror=hurt()>"]
    names, probabilities = open_bundle(classifier_run).predict(texts)
    browser.open(f"{classifier.address}/")
    browser.until("!document.getElementById('threshold-section').hidden")
    submit(browser, "texts", "\n".join(texts), "predict-form")
    browser.until("document.querySelectorAll('#predictions-rows tr').length === 3")
    found = cells(browser)
    assert [row[0] for row in found] == texts and [row[1] for row in found] == names
    assert [row[3] for row in found] == names
    browser.run("document.querySelector('#predictions-rows button').click()")
    browser.until("!document.getElementById('why').hidden")
    shown = browser.run("document.getElementById('why-tokens').textContent")
    assert len(shown) > 20 and texts[0].startswith(shown)
    before = browser.run("document.getElementById('threshold-said').textContent")
    browser.run("document.getElementById('threshold').focus()")
    browser.press("Home")
    browser.press("ArrowRight")
    browser.press("Home")
    label = browser.run("document.getElementById('threshold-label').value")
    at = browser.run("document.getElementById('threshold').value")
    assert browser.run("document.getElementById('threshold-said').textContent") != before
    sure = probabilities[:, sorted(words.labels).index(label)]
    said = [label if p >= int(at) / 200 else next(own for own in words.labels if own != label) for p in sure]
    assert [row[3] for row in cells(browser)] == said
    browser.run("document.getElementById('threshold-back').click()")
    assert [row[3] for row in cells(browser)] == names


def test_a_table_is_dropped_and_comes_back(browser, classifier, tmp_path, words):
    table = tmp_path / "drop.csv"
    rows = words.rows(40, 11)
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text, _ in rows)])
    browser.open(f"{classifier.address}/")
    browser.until("!document.getElementById('threshold-section').hidden")
    drop = """(() => {
        const files = new DataTransfer();
        files.items.add(new File([CONTENT], 'drop.csv'));
        const event = new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true});
        document.getElementById('drop').dispatchEvent(event);
    })()""".replace("CONTENT", json.dumps(table.read_text()))
    browser.run(drop)
    browser.until("!document.getElementById('table-link').hidden")
    assert browser.run("document.getElementById('table-progress').value") == 1
    text = browser.run("fetch(document.getElementById('table-link').href).then(r => r.text())")
    filled = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["text"] for row in filled] == [text for text, _ in rows] and "predicted" in filled[0]
    browser.run("document.getElementById('table-link').hidden = true")
    browser.choose_file("#table-file", table)
    browser.until("!document.getElementById('table-link').hidden")
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("no table")
    browser.choose_file("#table-file", wrong)
    browser.until("!document.getElementById('problem').hidden")
    assert "not a table" in browser.run("document.getElementById('problem').textContent")
    assert len(browser.errors) == 1 and "415" in browser.errors.pop()


def test_a_chat_is_that_of_the_command_and_stops(browser, talk, instruct_run, words, monkeypatch):
    from finetune.tasks.instruct.chat import converse, open_conversation

    said = []
    converse(open_conversation(instruct_run, None, temperature=0.0), [words.question], said.append)
    browser.open(f"{talk.address}/")
    browser.until("!document.getElementById('chat').hidden")
    browser.run("document.getElementById('question').focus()")
    browser.type(words.question)
    browser.press("Enter")
    browser.until("document.getElementById('chat-state').textContent.startsWith('finished')")
    last = "document.querySelector('#chat-log .said:last-child span').textContent"
    assert browser.run(last) == "".join(said).removesuffix("\n")
    browser.run("document.querySelector('#chat-settings [name=max_tokens]').value = 4000")
    model = talk.served.writer.model
    generate = model.generate

    def slowly(*given, on_tokens, **options):
        return generate(*given, on_tokens=lambda tokens: time.sleep(0.05) or on_tokens(tokens), **options)

    monkeypatch.setattr(model, "generate", slowly)  # else it may have ended before the click
    submit(browser, "question", "<img src=x onerror=hurt()>", "chat-form")
    browser.until(f"({last}).length > 10")
    browser.run("document.getElementById('chat-stop').click()")
    browser.until("document.getElementById('chat-state').textContent === 'stopped'")
    stopped = browser.run(last)
    assert browser.run("document.getElementById('chat-stop').disabled") and browser.run(last) == stopped


def test_a_text_is_continued_and_its_next_token_shown(browser, talk):
    browser.open(f"{talk.address}/")
    browser.until("!document.getElementById('writer').hidden")
    browser.run("document.querySelector('#write-settings [name=max_tokens]').value = 12")
    submit(browser, "prompt", "The river", "write-form")
    browser.until("document.getElementById('write-state').textContent.startsWith('finished')")
    assert browser.run("document.getElementById('written').textContent").startswith("The river ")
    browser.run("document.getElementById('write-next').click()")
    browser.until("document.querySelectorAll('#next-tokens li').length === 20")
    browser.run("document.querySelector('#next-tokens button').click()")
    browser.until("document.getElementById('prompt').value.length > 'The river'.length")


def test_a_target_shows_where_it_looked(browser, server, seq2seq_export):
    with server(seq2seq_export) as running:
        browser.open(f"{running.address}/")
        browser.until("!document.getElementById('seq2seq').hidden")
        submit(browser, "source", "seven", "source-form")
        browser.until("document.querySelectorAll('#attention tbody tr').length > 0")
        assert browser.run("document.querySelectorAll('#attention thead th').length") == 5


def test_names_are_marked_in_the_text(browser, server, tagger_bundle):
    from finetune.tasks.tag.bundle import TagBundle

    text = "😀 Anna went to <b>Oslo</b>.\nBo 👩‍👩‍👧 stayed, and Ann left New York."
    [expected] = TagBundle.load(tagger_bundle).names([text])
    with server(tagger_bundle) as running:
        browser.open(f"{running.address}/", 390, 900)
        browser.until("!document.getElementById('tagger').hidden")
        submit(browser, "tag-text", text, "tag-form")
        browser.until("!document.getElementById('tag-part').hidden")
        marks = "[...document.querySelectorAll('#tagged mark')].map(m => [m.firstChild.textContent, m.lastChild.textContent])"
        assert browser.run(marks) == [[name.text, name.kind] for name in expected] and expected
        shown = "[...document.getElementById('tagged').childNodes].map(n => (n.firstChild ?? n).textContent).join('')"
        assert browser.run(shown) == text
        assert browser.run("document.querySelectorAll('#tag-rows tr').length") == len(expected)
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")


CONTRAST = """(() => {  // texts of less than 4.5 (WCAG 2, 1.4.3)
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const level = (color) => color.match(/[\\d.]+/g).slice(0, 3)
        .reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
    const under = (node) => {
        while (node && /rgba\\(0, 0, 0, 0\\)/.test(getComputedStyle(node).backgroundColor)) node = node.parentElement;
        return getComputedStyle(node || document.body).backgroundColor;
    };
    return [...document.querySelectorAll('h1, h2, p, label, th, td, a, button')]
        .filter((node) => node.offsetParent && node.textContent.trim())
        .map((node) => [level(getComputedStyle(node).color), level(under(node)), node.textContent.slice(0, 30)])
        .filter(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5)
        .map(([, , text]) => text);
})()"""


@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_can_be_used_by_keyboard(browser, classifier, width, dark):
    browser.open(f"{classifier.address}/", width, 900, dark)
    browser.until("!document.getElementById('threshold-section').hidden")
    submit(browser, "texts", "w" * 300 + "\nlunch", "predict-form")
    browser.until("document.querySelectorAll('#predictions-rows tr').length === 2")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("document.querySelector('#predictions-rows button').getBoundingClientRect().right <= innerWidth")
    unnamed = """[...document.querySelectorAll('button, input, textarea, select')].filter(e => e.offsetParent &&
        !e.labels?.length && !e.textContent.trim() && !e.getAttribute('aria-label')).map(e => e.outerHTML)"""
    assert browser.run(unnamed) == []
    assert browser.run(CONTRAST) == []
    browser.run("document.activeElement.blur()")
    reached = set()
    for _ in range(14):
        browser.press("Tab")
        reached.add(browser.run("document.activeElement.id"))
    assert {"texts", "threshold", "table-file"} <= reached


def test_the_screenshots_of_the_docs_can_be_taken_again(browser, classifier):
    root = Path(__file__).resolve().parents[3]
    spec = importlib.util.spec_from_file_location("screenshots", root / "docs" / "screenshots.py")
    screenshots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshots)
    taken = Image.open(io.BytesIO(screenshots.serve_picture(browser, classifier.address)))
    assert taken.size == Image.open(root / "docs" / "serve.png").size
    assert not browser.run("document.getElementById('why').hidden || document.getElementById('why-near').hidden")
    for name in ("report", "xray"):
        size = Image.open(root / "docs" / f"{name}.png").size
        picture = screenshots.top_picture(browser, f"{classifier.address}/", size[1])
        assert Image.open(io.BytesIO(picture)).size == size

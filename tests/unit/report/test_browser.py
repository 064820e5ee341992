"""The report in a real browser: it runs nothing of the data, asks for nothing, and its tables and pictures can be used."""

import json
import re

import pytest

from finetune.report.build import build_report
from finetune.tasks.classify.page import PAGE
from tests.unit.report.conftest import write_evidence, write_run

HOSTILE = [
    "<script>document.title = 'run'</script>",
    "<img src=http://evil.example/x onerror=document.title='run'>",
    "{{7*7}} {% raw %} ${7*7}",
    "</td></tr></table></section></main><h2>outside</h2>",
    "\u200f\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 </script><script>document.title = 'run'</script>",
    "word" * 1250,
    "<!-- ]]> &lt;b&gt; \u2028 \x07",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of hostile texts, labels and column names: its path."""
    labels = [HOSTILE[0], HOSTILE[6][:300], HOSTILE[3]]
    directory = tmp_path_factory.mktemp("runs") / "<b onclick=x>"
    run = write_run(directory, labels=labels, rows=(300, 90, 150), texts=HOSTILE, resamples=100)
    card = json.loads((run / "data" / "card.json").read_text())
    card |= {
        "name": HOSTILE[1],
        "source": "javascript:document.title='run'",
        "columns": {"text": HOSTILE[6], "label": HOSTILE[0], "group": HOSTILE[4]},
        "notes": HOSTILE,
        "licence": HOSTILE[5],
        "checks": [{"check": "emoji", "level": "note", "what": what, "do": what} for what in HOSTILE],
    }
    (run / "data" / "card.json").write_text(json.dumps(card))
    write_evidence(run, HOSTILE)
    return build_report(run, {"classify": PAGE})


@pytest.fixture
def page(report, browser):
    """The report, open in the browser."""
    browser.open(report)
    return report


@pytest.mark.parametrize("width", [400, 1100])
def test_hostile_data_breaks_and_runs_nothing(page, browser, width):
    browser.open(page, width)
    assert browser.errors == []
    assert {address for address in browser.requests if not address.startswith("data:image/svg+xml")} == {
        page.resolve().as_uri()
    }
    assert browser.run("document.title") != "run" and browser.run("document.scripts.length") == 1
    text = browser.run("document.body.innerText")
    assert all(
        part in text for part in ("{{7*7}}", "${7*7}", "<script>document.title", "</table>", "\u05e9\u05dc\u05d5\u05dd")
    )
    titles = re.findall(r'<h2 id="[^"]+">([^<]+)</h2>', page.read_text(encoding="utf-8"))
    assert browser.run("[...document.querySelectorAll('main > section > h2')].map((own) => own.textContent)") == titles
    assert "outside" not in titles and browser.run("document.querySelectorAll('h2').length") == len(titles)
    assert browser.run("document.documentElement.scrollWidth") <= width, "a long word widens the page"


def test_what_the_policy_forbids_is_an_error_of_the_console(report, browser, tmp_path):
    opened, page = report.read_text(encoding="utf-8"), tmp_path / "index.html"
    page.write_text(
        opened.replace("</main>", "<script>document.title = 'run'</script><img src='https://evil.example/x'>")
    )
    browser.open(page)
    assert browser.run("document.title") != "run" and len(browser.errors) == 2, browser.errors
    page.write_text(opened.replace('"use strict";', '"use strict"; unknown();'))
    browser.open(page)
    assert browser.errors, "a script that the policy does not name must not run"


def test_without_its_script_the_page_reads_the_same(page, browser):
    shown = "[...document.querySelectorAll('h1, h2, p, td, tbody th, figcaption strong')].map((own) => own.innerText).join('|')"
    with_script = browser.run(shown)
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.run(shown) == with_script
        assert browser.run("document.querySelectorAll('button, input').length") == 0
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_tables_sort_with_the_keyboard_and_say_so(page, browser):
    table = (
        "[...document.querySelectorAll('table')].find((own) => own.caption.textContent == 'Misclassified test rows')"
    )
    browser.run(f"window.table = {table}; window.heading = table.tHead.rows[0].cells[4]; null")
    column = "[...table.tBodies[0].rows].map((row) => Number(row.cells[4].textContent))"
    original = browser.run(column)
    for order in ("ascending", "descending", None):
        browser.run("heading.querySelector('button').focus()")
        browser.press("Enter", "\r")
        values = browser.run(column)
        assert browser.run("heading.getAttribute('aria-sort')") == order
        assert values == (sorted(original, reverse=order == "descending") if order else original)


def test_numbers_sort_by_what_is_shown(page, browser):
    cells = [
        "p = 0.5",
        "p < 0.0001",
        "98.7 %\n(97 % to 99 %)",
        "\u22121.5",
        "1,234",
        "3 min 20 s",
        "2 h 5 min",
        "0.4 s",
        "600 MB",
    ]
    cells += ["1.20 GB", "\u2013", "+0.5 points", "1e-3"]
    values = browser.run(f"{json.dumps(cells)}.map((cell) => numberOf(cell)).map(String)")
    assert values == [
        "0.5",
        "0.0001",
        "98.7",
        "-1.5",
        "1234",
        "200",
        "7500",
        "0.4",
        "600",
        "1200",
        "NaN",
        "0.5",
        "0.001",
    ]


def test_long_tables_filter_and_count_their_rows(page, browser):
    browser.run("window.input = document.querySelector('#run input[type=search]'); input.focus(); null")
    browser.type("train seed")
    rows = "[...input.closest('label').nextElementSibling.querySelectorAll('tbody tr')]"
    shown = browser.run(f"{rows}.filter((row) => row.checkVisibility()).map((row) => row.cells[0].textContent)")
    assert "train.seed" in shown and all("train" in name or "seed" in name for name in shown)
    total = browser.run(f"{rows}.length")
    assert (
        browser.run("input.closest('label').querySelector('[role=status]').textContent")
        == f"{len(shown)} of {total} rows"
    )
    assert "Settings" in browser.run("input.getAttribute('aria-label')")


def test_pictures_enlarge_and_escape_closes(page, browser):
    assert browser.run("document.querySelectorAll('.enlarge').length") == browser.run(
        "document.querySelectorAll('figure').length"
    )
    browser.run("document.querySelector('.enlarge').focus()")
    browser.press("Enter", "\r")
    assert browser.run("document.querySelector('dialog').open")
    box = browser.run(
        "(({width, height}) => [width, height])(document.querySelector('dialog img').getBoundingClientRect())"
    )
    assert box[0] > 900 and box[1] > 600
    browser.press("Escape")
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.run("document.activeElement.className") == "enlarge", "the focus returns to the button"


def test_controls_are_not_printed(page, browser):
    shown = "[...document.querySelectorAll('.filter, .enlarge')].filter((own) => own.checkVisibility()).length"
    assert browser.run(shown) > 0
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run(shown) == 0
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")

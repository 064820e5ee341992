"""A report does not grow with the number of its test rows, and its tables of many labels stay short."""

from finetune.report.build import build_report
from finetune.tasks.classify.page import PAGE


def test_the_page_of_many_test_rows_is_as_small_as_that_of_few(make_run):
    run = make_run(rows=(300, 60, 400), resamples=100, strength=1.0)
    few = build_report(run, {"classify": PAGE}).stat().st_size
    header, *rows = (run / "predictions.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "predictions.csv").write_text(header + "".join(rows) * 100, encoding="utf-8")
    index = build_report(run, {"classify": PAGE})
    assert index.stat().st_size < 1.01 * few < 3_000_000
    assert "of 40,000 test rows are misclassified" in index.read_text(encoding="utf-8")


def test_of_150_labels_the_worst_are_shown_and_all_on_request(make_run):
    labels = [f"intent {at} of a customer" for at in range(150)]
    run = make_run(labels=labels, rows=(600, 200, 600), resamples=100, strength=6.0)
    index = build_report(run, {"classify": PAGE})
    page = index.read_text(encoding="utf-8")
    section = page.partition('<section id="labels"')[2].partition("</section>")[0]
    shown, _, folded = section.partition("<details>")
    assert "The 20 labels with the lowest F1, of 150" in shown and shown.count("<tr>") == 21
    assert "<summary>All 150 labels</summary>" in folded and folded.count("<tr>") == 151
    assert index.stat().st_size < 3_000_000

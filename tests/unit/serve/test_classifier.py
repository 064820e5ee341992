"""A served classifier gives the answers of predict, however many ask at once, and refuses what is too much in words."""

import copy
import csv
import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from finetune.tasks.classify.bundle import open_bundle, predict_table

pytest.importorskip("fastapi", reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def served(client, classifier_run):
    with client(classifier_run) as ready:
        yield ready


def message(response):
    """What an error says, which has OpenAI's form."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def test_two_hundred_requests_at_once_get_the_answers_of_predict(server, classifier_run, words):
    import httpx2 as httpx

    bundle, texts = open_bundle(classifier_run), [text for text, _ in words.rows(200, 9)]
    names, probabilities = bundle.predict(texts)
    with server(classifier_run) as running:

        def ask(text):
            return httpx.post(f"{running.address}/predict", json={"texts": [text]}, timeout=60)

        with ThreadPoolExecutor(200) as many:
            answers = list(many.map(ask, texts))
    assert {answer.status_code for answer in answers} == {200}
    given = [answer.json()["predictions"][0] for answer in answers]
    assert [own["label"] for own in given] == names
    np.testing.assert_allclose([own["probabilities"] for own in given], probabilities, atol=1e-6)


def test_requests_that_wait_share_a_batch(served, words):
    from finetune.serve.worker import Work

    classifier, worker = served.served.classifier, served.worker
    sizes = []
    counted = Work(lambda requests: sizes.append(len(requests)) or classifier._predict(requests), weight=len, most=8)
    hold = worker.submit(Work(lambda items: [time.sleep(0.3)]), None)
    futures = [worker.submit(counted, ["lunch", "prize"]) for _ in range(6)]
    found = [future.result(30) for future in futures]
    hold.result(30)
    assert sizes == [4, 2]
    for logits in found:
        np.testing.assert_allclose(logits, classifier.bundle.logits(["lunch", "prize"]), atol=1e-6)


def test_it_may_abstain_as_predict_does(served):
    classifier = copy.copy(served.served.classifier)
    logits = np.array([[3.0, 0.0], [0.1, 0.0], [0.0, 4.0]], dtype=np.float32)
    label = classifier.of_logits(logits)[2].label
    classifier.bundle = replace(classifier.bundle, abstain_below=0.9)
    found = classifier.of_logits(logits)
    assert [own.decision for own in found] == [classifier.labels[0], "abstain", label]
    assert found[1].label in classifier.labels and found[1].probability < 0.9


def test_a_bad_request_fails_alone(served):
    from finetune.errors import DataError
    from finetune.serve.worker import Work

    work, worker = served.served.classifier.predict_work, served.worker
    hold = worker.submit(Work(lambda items: [time.sleep(0.3)]), None)
    good, bad = worker.submit(work, ["lunch"]), worker.submit(work, [""])
    assert good.result(30).shape == (1, 2)
    with pytest.raises(DataError, match="empty"):
        bad.result(30)
    hold.result(30)


def test_an_explanation_is_that_of_the_report(served, classifier_run, words):
    from finetune.tasks.classify.explain import occlusion_shifts
    from finetune.training.predict import predict_states

    text = words.rows(1, 5)[0][0]
    while "Reading" in str(served.post("/explain", json={"text": text}).json()["notes"]):
        time.sleep(0.1)
    found = served.post("/explain", json={"text": text}).json()
    bundle = open_bundle(classifier_run)
    ids = bundle.tokenizer.encode(text)[: bundle.max_length]
    [label] = [at for at, name in enumerate(bundle.labels) if name == found["label"]]
    shifts = occlusion_shifts(bundle, ids, [np.array([at]) for at in range(len(ids))], label, 1 - label)
    assert "".join(token for token, _ in found["tokens"]) == bundle.tokenizer.decode(ids)
    np.testing.assert_allclose([shift for _, shift in found["tokens"]], shifts, atol=1e-5)
    known = words.rows(80, 1)
    states = predict_states(bundle.model, [bundle.tokenizer.encode(own)[: bundle.max_length] for own, _ in known])
    own = predict_states(bundle.model, [ids])[0]
    cosine = states @ own / np.linalg.norm(states, axis=1) / np.linalg.norm(own)
    assert [near["similarity"] for near in found["neighbours"]] == pytest.approx(np.sort(cosine)[::-1][:3], abs=1e-5)
    best = found["neighbours"][0]
    assert (best["text"], best["label"]) == known[best["row"]]


def test_thresholds_count_the_test_rows(served, classifier_run):
    from sklearn.metrics import precision_score, recall_score

    about = served.get("/about").json()
    label = about["labels"][1]
    found = served.get("/thresholds", params={"label": label}).json()
    with open(classifier_run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    true = [row["label"] == label for row in rows]
    for at in (0, 40, 100, 150, 200):
        said = [float(row[f"p_{label}"]) >= found["thresholds"][at] for row in rows]
        assert found["said"][at] == sum(said)
        if sum(said):
            assert found["right"][at] / found["said"][at] == pytest.approx(precision_score(true, said))
        assert found["right"][at] / found["positives"] == pytest.approx(recall_score(true, said))
    assert served.get("/thresholds", params={"label": "neither"}).status_code == 404


def test_a_table_comes_back_as_predict_fills_it(served, classifier_run, tmp_path, words):
    table = tmp_path / "in.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *((at, text) for at, (text, _) in enumerate(words.rows(150, 7)))])
    predict_table(open_bundle(classifier_run), table, tmp_path / "out.csv", None)
    sent = served.post("/tables", params={"name": "../my <b>.csv"}, content=table.read_bytes())
    assert sent.status_code == 202 and sent.json()["rows"] == 150
    where = f"/tables/{sent.json()['id']}"
    while (state := served.get(where).json())["state"] == "running":
        time.sleep(0.05)
    assert state["state"] == "done" and state["done"] == 150 and state["name"] == "my _b_-predicted.csv"
    given, wanted = (
        list(csv.DictReader(io.StringIO(text, newline="")))
        for text in (served.get(f"{where}/file").text, (tmp_path / "out.csv").read_text())
    )
    assert [row["predicted"] for row in given] == [row["predicted"] for row in wanted]
    assert given[0].keys() == wanted[0].keys() and [row["id"] for row in given] == [str(at) for at in range(150)]
    np.testing.assert_allclose(*([float(row["probability"]) for row in part] for part in (given, wanted)), atol=1e-6)
    assert served.delete(where).status_code == 200 and served.get(where).status_code == 404


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("rows.csv", b"text\n" + b"a b\n" * 301, 413, "more than 300 rows"),
        ("long.csv", b"text\n" + b"a" * 20_000, 413, "finetune predict"),
        ("notes.pdf", b"%PDF", 415, "not a table"),
        ("none.csv", b"", 400, "empty"),
        ("odd.csv", b"text\n\xff\xfe\x81", 400, "odd.csv"),
    ],
)
def test_a_table_that_cannot_be_filled_is_refused_in_words(client, classifier_run, name, content, status, said):
    with client(classifier_run, table_rows=300, table_bytes=10_000) as limited:
        answer = limited.post("/tables", params={"name": name}, content=content)
    assert answer.status_code == status and said in message(answer)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"texts": ["a"] * 9}, 413, "too many texts"),
        ({"texts": ["a" * 101]}, 413, "101 characters"),
        ({"texts": ["lunch", " "]}, 400, "text 1 is empty"),
        ({"texts": []}, 400, "texts"),
        ({"texts": "lunch"}, 400, "texts"),
        ({"text": ["lunch"]}, 400, "text"),
        ({"texts": ["a"], "label": "spam"}, 400, "label"),
        ("x" * 5000, 413, "too long"),
    ],
)
def test_a_request_that_asks_too_much_is_refused_in_words(client, classifier_run, body, status, said):
    with client(classifier_run, texts=8, characters=100, body_bytes=2000) as limited:
        answer = limited.post("/predict", json=body)
    assert answer.status_code == status and said in message(answer)


def test_waiting_has_its_limits(client, classifier_run):
    from finetune.serve.worker import Work

    with client(classifier_run, waiting=1, seconds=0.6) as limited:
        slow = Work(lambda items: [time.sleep(2.5)])
        running = limited.worker.submit(slow, None)
        while not running.running():
            time.sleep(0.01)
        late = limited.post("/predict", json={"texts": ["lunch"]})
        assert late.status_code == 504 and "after 1 seconds" in message(late)
        limited.worker.submit(slow, None)
        full = limited.post("/predict", json={"texts": ["lunch"]})
        assert full.status_code == 503 and "too many" in message(full) and full.headers["retry-after"] == "1"
        limited.worker.close()
        closing = limited.post("/predict", json={"texts": ["lunch"]})
        assert closing.status_code == 503 and "closing" in message(closing)


def test_a_bundle_says_what_only_a_run_has(client, classifier_run):
    with client(classifier_run / "export" / "hf") as bundle:
        assert "serve the run" in bundle.post("/explain", json={"text": "lunch"}).json()["notes"][0]
        assert "Serve the run" in message(bundle.get("/thresholds", params={"label": "ham"}))

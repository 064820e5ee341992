"""A served tagger finds the names that predict finds, however many ask at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune.tasks.tag.bundle import TagBundle
from finetune.tasks.tag.predict import predict_texts

pytest.importorskip("fastapi", reason="the extra serve is not installed")
TEXTS = ["Anna went to Oslo.\nBo stayed at home.", "😀 Ann's <b>lunch</b> in New York", "x", "…", "one two three " * 30]


def rounded(names):
    return [own | {"probability": pytest.approx(own["probability"], abs=1e-5)} for own in names]


def test_many_requests_at_once_get_the_names_of_predict(client, tagger_bundle, words):
    texts = [*TEXTS, *(f"{text} {number}" for number in range(12) for text in TEXTS[:3])]
    expected = [
        [vars(name) for name in names] for names in (TagBundle.load(tagger_bundle).names([text])[0] for text in texts)
    ]
    assert sum(map(len, expected)) > 20, "a tagger that finds nothing shows nothing"
    with client(tagger_bundle) as served:
        about = served.get("/about").json()
        assert about["kind"] == "tagger" and about["kinds"] == [words.labels[1], "place"]

        def ask(text):
            return served.post("/tag", json={"texts": [text]}).json()["names"][0]

        with ThreadPoolExecutor(16) as many:
            assert list(many.map(ask, texts)) == list(map(rounded, expected))
        together = served.post("/tag", json={"texts": texts}).json()
        assert together["names"] == list(map(rounded, expected)) and together["kinds"] == about["kinds"]
        empty = served.post("/tag", json={"texts": ["a", " "]})
        assert empty.status_code == 400 and "text 1 is empty" in empty.json()["error"]["message"]
        assert served.post("/predict", json={"texts": ["a"]}).status_code == 404
    lines = [line for line in predict_texts(tagger_bundle, TEXTS[:1])]
    assert (
        lines == [f"{own['kind']}\t{own['text']}\t{own['probability']:.4f}" for own in expected[0]] or not expected[0]
    )


def test_requests_that_wait_share_a_batch(client, tagger_bundle):
    with client(tagger_bundle) as served:
        tagger = served.served.tagger
        first, second = tagger._names([TEXTS[:2], TEXTS[2:3]])
        assert (len(first), len(second)) == (2, 1) and first == tagger.bundle.names(TEXTS[:2])
        assert tagger.names_work.most > 100 and tagger.names_work.weight(TEXTS) == len(TEXTS)

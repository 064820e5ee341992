"""The pipeline from Python: frames and data sets in, the same with answers out."""

import datasets
import numpy as np
import pandas as pd
import pytest

import finetune
from finetune import api
from finetune.errors import DataError
from finetune.files import read_json
from finetune.tasks.classify.bundle import Bundle

WORDS = {"junk": ["win", "cash", "prize", "claim", "now"], "fine": ["lunch", "home", "mum", "later", "ok"]}
SETTINGS = {"train": {"epochs": 2, "lr": 1e-2}, "evaluate": {"resamples": 100}}


def toy_frame(rows: int = 90) -> pd.DataFrame:
    """Texts under odd column names, with an index that is no range."""
    draw = np.random.default_rng(0)
    kinds = [("junk", "fine")[i % 2] for i in range(rows)]
    texts = [" ".join(draw.choice(WORDS[kind], 4)) + f" {'xyz'[i % 3] * (i % 7)}" for i, kind in enumerate(kinds)]
    return pd.DataFrame({"n": np.arange(rows) / 2, "note to self": texts, "kind": kinds}, index=range(500, 500 + rows))


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run on a frame."""
    return finetune.classify(
        toy_frame(),
        text="note to self",
        label="kind",
        weights=tiny,
        settings=SETTINGS,
        folder=tmp_path_factory.mktemp("here") / "runs",
    )


def test_a_frame_goes_through_the_whole_pipeline_once(run, tiny, capsys):
    assert run.directory.name == "classify" and run.report.is_file() and run.bundle.is_dir()
    assert run.evaluation["headline"]["metric"] == "accuracy" and run.evaluation["headline"]["n"] == 18
    card = read_json(run.directory / "data" / "card.json")
    assert card["rows"] == 90 and card["labels"] == {"junk": 45, "fine": 45}
    again = finetune.classify(
        toy_frame(), text="note to self", label="kind", weights=tiny, settings=SETTINGS, folder=run.directory.parent
    )
    assert again.directory == run.directory and "nothing left to do" in capsys.readouterr().out
    assert len(list((run.directory.parent / "tables").iterdir())) == 1


def test_a_frame_comes_back_with_the_answers(run):
    frame = toy_frame(9).assign(extra=[["a list"]] * 9)
    frame.loc[503, "note to self"] = None
    found = run.predict(frame)
    pd.testing.assert_frame_equal(found[list(frame)], frame)
    assert list(found)[4:] == ["predicted", "probability", "p_fine", "p_junk"] and "predicted" not in frame
    assert found.loc[503, list(found)[4:]].isna().all()
    labels, probabilities = Bundle.load(run.bundle).predict(frame["note to self"].dropna().tolist())
    rest = found.drop(index=503)
    assert rest["predicted"].tolist() == labels
    np.testing.assert_allclose(rest[["p_fine", "p_junk"]], probabilities, atol=1e-12)
    assert rest["probability"].tolist() == pytest.approx(probabilities.max(1))


def test_texts_and_data_sets_are_answered_too(run):
    frame = toy_frame(6)
    alone = finetune.predict(run.directory, frame["note to self"].tolist())
    assert list(alone)[:2] == ["text", "predicted"]
    data = datasets.Dataset.from_dict({"note to self": [*frame["note to self"], " "], "other": list("abcdefg")})
    found = finetune.predict(run.bundle, data, text="note to self")
    assert found["predicted"][:6] == alone["predicted"].tolist() and found["predicted"][6] is None
    assert list(found["other"]) == list("abcdefg") and found["p_junk"][:6] == alone["p_junk"].tolist()
    joined = finetune.predict(run.bundle, data.select(range(6)), text="other,note to self").to_pandas()
    expected = finetune.predict(run.bundle, [f"{a}\n{b}" for a, b in zip("abcdef", alone["text"], strict=True)])
    assert joined["p_fine"].tolist() == expected["p_fine"].tolist()
    learnt = finetune.predict(run.bundle, frame.assign(text="another"))  # from the column of the training
    assert learnt["p_junk"].tolist() == alone["p_junk"].tolist()
    with pytest.raises(DataError, match="no text column"):
        finetune.predict(run.bundle, frame[["n", "kind"]])
    with pytest.raises(DataError, match="columns that the output adds; got predicted"):
        finetune.predict(run.bundle, alone[["text", "predicted"]])


def test_a_data_set_keeps_its_own_splits_and_names(tiny, tmp_path):
    frame = toy_frame(80)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["junk", "fine"])}
    )
    whole = datasets.Dataset.from_dict(
        {"text": frame["note to self"].tolist(), "label": frame["kind"].tolist()}, features=features
    )
    data = datasets.DatasetDict(train=whole.select(range(55)), test=whole.select(range(55, 80)))
    run = finetune.classify(data, weights=tiny, settings=SETTINGS, folder=tmp_path, name="mine")
    table = pd.read_csv(run.directory / "predictions.csv")
    assert run.directory == tmp_path / "mine" and sorted(table["text"]) == sorted(data["test"]["text"])
    assert run.evaluation["labels"] == ["fine", "junk"]
    assert len(list((tmp_path / "tables").iterdir())) == 1


def test_a_table_s_file_is_named_by_its_content(tmp_path):
    frame, changed = toy_frame(5), toy_frame(5)
    changed.iloc[0, 1] = "other"
    paths = [api._as_path(own, tmp_path, "x") for own in (frame, frame.copy(), changed)]
    assert paths[0] == paths[1] != paths[2] and len(list(tmp_path.iterdir())) == 2
    back = pd.read_parquet(paths[0])
    assert back["note to self"].tolist() == frame["note to self"].tolist() and back["n"].tolist()[1] == "0.5"
    data = [datasets.Dataset.from_dict({"text": [word]}) for word in "aab"]
    places = [api._as_path(own, tmp_path, "x") for own in data]
    assert places[0] == places[1] != places[2]
    mixed = pd.DataFrame({"text": ["a", 5, None], "label": [True, "x", 1.5]})
    written = pd.read_parquet(api._as_path(mixed, tmp_path, "y"))
    assert written.values.tolist() == [["a", "true"], ["5", "x"], ["", "1.5"]]


@pytest.mark.parametrize(
    "data, words",
    [
        ([["a", "b"]], "unsupported type of training data; got list"),
        ("nowhere.csv", "neither a file nor the name of a data set"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "two columns have the same name"),
        (pd.DataFrame({"text": ["a"]}), "no label column"),
    ],
)
def test_what_is_not_data_is_reported(data, words, tmp_path, tiny):
    with pytest.raises(DataError, match=words):
        finetune.classify(data, weights=tiny, folder=tmp_path)


def test_the_command_s_options_reach_the_run(tiny, tmp_path):
    frame = toy_frame(60).assign(part=["train", "val", "test"] * 20)
    (tmp_path / "my.csv").write_bytes(frame.to_csv(index=False).replace("xx", "é").encode("cp1252"))
    run = finetune.classify(
        tmp_path / "my.csv",
        "note to self",
        "kind",
        split="part",
        encoding="cp1252",
        weights=tiny,
        settings=SETTINGS,
        name="options",
        folder=tmp_path / "runs",
    )
    card = read_json(run.directory / "data" / "card.json")
    assert {name: part["rows"] for name, part in card["splits"].items()} == {"train": 20, "val": 20, "test": 20}
    assert "é" in (run.directory / "data" / "train.jsonl").read_text(encoding="utf-8")

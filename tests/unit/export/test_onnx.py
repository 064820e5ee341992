"""A graph that onnxruntime runs: the same logits, labels and decisions, without torch where it predicts."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.errors import DataError, RunError, WeightsError
from finetune.evaluation.aims import ABSTAIN, choose_rule
from finetune.evaluation.calibration import softmax
from finetune.evaluation.results import StartWeights
from finetune.export import extras, hf, onnx
from finetune.export.cost import equal_rows
from finetune.export.exportable import Exportable
from finetune.export.standalone import OnnxClassifier, predict_csv
from finetune.files import write_manifest
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify.bundle import BundleCard, OnnxBundle, open_bundle, predict_table
from finetune.tasks.classify.export import exportable
from finetune.tasks.classify.job import build_model
from finetune.tokenizer import Tokenizer
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

ROOT = Path(__file__).parents[3]
TOKENIZER = Tokenizer.of_bytes()
TEXTS = ["hello", "free cash <|endoftext|>, call now or never", "é" * 40, "x", "=1+1", "a", "b c", "d" * 19, "ef" * 9]
LABELS = ["ham", "spam"]


def classifier(labels=LABELS):
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    model = build_model(gpt, len(labels), seed=0).eval()
    model.head.weight.data *= 30
    return model


def thing(model, labels=LABELS, threshold=0.7, targets=None, thresholds=None, **rule) -> Exportable:
    card = BundleCard(
        schema_version=1,
        task="classify",
        labels=labels,
        positive=labels[1] if threshold is not None else None,
        max_length=20,
        threshold=threshold,
        thresholds=thresholds,
        **rule,
        temperature=1.5,
        columns={"text": "note", "label": "kind"},
        weights=StartWeights("tiny", "here", "", {}, fallback=False, note=""),
        tokenizer_sha256=TOKENIZER.fingerprint(),
        data_sha256="d" * 64,
        recipe_sha256="e" * 64,
    )
    return exportable("run", model, TOKENIZER, card, TEXTS, [], targets=targets)


def language_model():
    return GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A bundle, its model, and what was found."""
    directory, model = tmp_path_factory.mktemp("onnx") / "onnx", classifier()
    return directory, model, onnx.write(thing(model), directory)


def test_the_graph_decides_as_the_model_on_any_batch_and_length(written):
    directory, model, found = written
    assert found.compared and found.same_labels == found.texts == len(TEXTS)
    assert 0 < found.max_logit_difference < 1e-4
    other = OnnxClassifier(directory)
    expected = predict_logits(model, encode(TOKENIZER, TEXTS, 20))
    np.testing.assert_allclose(other.logits(TEXTS), expected, atol=1e-5)
    for row, text in enumerate(TEXTS):  # by itself, whatever its length
        np.testing.assert_allclose(other.logits([text]), expected[row : row + 1], atol=1e-5)


def test_the_metadata_hold_what_a_prediction_needs(written):
    import onnxruntime

    directory, _, _ = written
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    stored = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert (stored["labels"], stored["positive"], stored["threshold"]) == (LABELS, "spam", 0.7)
    assert (stored["temperature"], stored["max_length"]) == (1.5, 20)
    assert stored["tokenizer_sha256"] == TOKENIZER.fingerprint()
    assert {path.name for path in directory.iterdir()} == {
        "model.onnx",
        "vocab.json",
        "merges.txt",
        "bundle.json",
        "predict.py",
        "MANIFEST.json",
        "README.md",
    }


@pytest.mark.slow
def test_many_labels_need_no_threshold(tmp_path):
    labels = [f"kind {number}" for number in range(7)]
    found = onnx.write(thing(classifier(labels), labels, threshold=None), tmp_path / "onnx")
    assert found.same_labels == len(TEXTS)


def test_costs_decide_and_uncertain_texts_are_abstained_on(tmp_path):
    directory, labels = tmp_path / "onnx", ["a", "b", "=c"]
    costs = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [9.0, 9.0, 0.0]]
    model = classifier(labels)
    p = softmax(predict_logits(model, encode(TOKENIZER, TEXTS, 20)), 1.5)
    expected = (p @ np.array(costs)).argmin(axis=1)
    assert (expected != p.argmax(axis=1)).any()
    sure = p[np.arange(len(p)), expected]
    below = float(np.sort(sure)[len(sure) // 2])
    onnx.write(thing(model, labels, threshold=None, costs=costs, abstain_below=below - 1e-6), directory)
    ready, other = open_bundle(directory), OnnxClassifier(directory)
    names = [labels[at] for at in expected]
    assert ready.predict(TEXTS)[0] == other.predict(TEXTS)[0] == names
    decisions = [name if own >= below else "abstain" for name, own in zip(names, sure, strict=True)]
    assert "abstain" in decisions and set(decisions) > {"abstain"}
    assert [line.split("\t") for line in other.lines(TEXTS)] == [
        [name, f"{own:.4f}", decision] for name, own, decision in zip(names, sure, decisions, strict=True)
    ]
    table = tmp_path / "in.csv"
    table.write_text("note\n" + "\n".join(f'"{text}"' for text in TEXTS), encoding="utf-8")
    predict_csv(other, table, "note", tmp_path / "theirs.csv")
    predict_table(ready, table, tmp_path / "ours.csv", None)
    assert (tmp_path / "theirs.csv").read_bytes() == (tmp_path / "ours.csv").read_bytes()


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Traced once for two labels and for three."""
    folder = tmp_path_factory.mktemp("graphs")
    for labels in (LABELS, ["a", "b", "=c"]):
        onnx._trace(classifier(labels), folder / f"{len(labels)}.onnx", {})
    return folder


@pytest.mark.parametrize(
    ("aim", "labels"),
    [
        *((aim, LABELS) for aim in ("half", "max-f1", "cost", "recall-at-fpr:0.2", "precision:0.9", "abstain:0.2")),
        ("half", ["a", "b", "=c"]),
        ("cost", ["a", "b", "=c"]),
        ("abstain:0.2", ["a", "b", "=c"]),
    ],
)
def test_every_aim_decides_the_same_in_torch_in_onnx_and_by_predict_py(tmp_path, monkeypatch, graphs, aim, labels):
    import onnx as library

    def trace(model, path, metadata):
        graph = library.load(graphs / f"{len(labels)}.onnx")
        library.helper.set_model_props(graph, metadata)
        library.save(graph, path)

    monkeypatch.setattr(onnx, "_trace", trace)
    model, costs = classifier(labels), [[0.0, 1.0, 1.0], [2.0, 0.0, 1.0], [9.0, 9.0, 0.0]]
    costs = [row[: len(labels)] for row in costs[: len(labels)]]
    p = softmax(predict_logits(model, encode(TOKENIZER, TEXTS, 20)), 1.5)
    likeliest, unsure = p.argmax(axis=1), np.argsort(p.max(axis=1))[:3]
    y = likeliest.copy()
    y[unsure] = (y[unsure] + 1) % len(labels)  # so that the likeliest label is not the best decision
    rule = choose_rule(aim, costs, y, p, 1 if len(labels) == 2 else None)
    rules = {"threshold": rule.threshold, "costs": rule.costs, "abstain_below": rule.abstain_below, "aim": rule.aim}
    for format in (hf, onnx):
        assert format.write(thing(model, labels, **rules), tmp_path / format.__name__).compared
    in_torch, in_onnx, alone = (
        open_bundle(tmp_path / hf.__name__),
        open_bundle(tmp_path / onnx.__name__),
        OnnxClassifier(tmp_path / onnx.__name__),
    )
    stored = alone.session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(stored.get(name, "null")) for name in rules} == rules
    source = tmp_path / "in.csv"
    source.write_text("note,id\n" + "".join(f'"{text}",1\n' for text in [*TEXTS, ""]), encoding="utf-8")
    predict_table(in_torch, source, tmp_path / "torch.csv", None)
    predict_table(in_onnx, source, tmp_path / "onnx.csv", None)
    predict_csv(alone, source, "note", tmp_path / "alone.csv")
    tables = [
        list(csv.DictReader((tmp_path / f"{name}.csv").read_text("utf-8").splitlines()))
        for name in ("torch", "onnx", "alone")
    ]
    sure = ["probability", *(f"p_{label}" for label in labels)]
    for one, *others in zip(*tables, strict=True):
        for other in others:
            assert other.keys() == one.keys()
            assert {k: v for k, v in other.items() if k not in sure} == {k: v for k, v in one.items() if k not in sure}
            assert all(one[k] == other[k] == "" or abs(float(one[k]) - float(other[k])) < 1e-4 for k in sure)
    decided = rule.predict(p, 1 if len(labels) == 2 else None)
    names = [labels[at] for at in decided]
    assert [row["predicted"].lstrip("'") for row in tables[0]] == [*names, ""]
    word = aim.partition(":")[0]
    assert ("decision" in tables[0][0]) is (word == ABSTAIN)
    if word == ABSTAIN:
        kept = rule.decided(p, decided)
        assert 0 < kept.sum() < len(kept)
        expected = [name if own else ABSTAIN for name, own in zip(names, kept, strict=True)]
        assert [row["decision"].lstrip("'") for row in tables[0]] == [*expected, ""]
    elif word != "half":
        assert (decided != likeliest).any()
    assert [line.split("\t", 1) for line in alone.lines(TEXTS)] == list(map(list, in_onnx.shown(TEXTS)))
    assert [own[0] for own in in_torch.shown(TEXTS)] == [own[0] for own in in_onnx.shown(TEXTS)]


def test_many_labels_per_text_keep_their_thresholds(tmp_path):
    directory, labels, thresholds = tmp_path / "onnx", ["a", "b", "c"], [0.3, 0.5, 0.6]
    model = classifier(labels)
    found = onnx.write(thing(model, labels, threshold=None, thresholds=thresholds), directory)
    assert found.same_labels == len(TEXTS)
    p = 1 / (1 + np.exp(-predict_logits(model, encode(TOKENIZER, TEXTS, 20)).astype(float) / 1.5))
    sets = [[label for label, value, least in zip(labels, row, thresholds, strict=True) if value >= least] for row in p]
    assert len(set(map(tuple, sets))) > 2
    sure = np.where(p >= thresholds, p, 1 - p).prod(axis=1)
    ready, other = open_bundle(directory), OnnxClassifier(directory)
    for names, read in (ready.predict(TEXTS), other.predict(TEXTS)):
        assert names == [";".join(own) for own in sets]
        np.testing.assert_allclose(read, p, atol=1e-5)
    assert [line.split("\t") for line in other.lines(TEXTS)] == list(map(list, ready.shown(TEXTS)))
    np.testing.assert_allclose(other.confidence(other.probabilities(TEXTS)), sure, atol=1e-5)
    table = tmp_path / "in.csv"
    table.write_text("note\n" + "\n".join(f'"{text}"' for text in TEXTS), encoding="utf-8")
    predict_csv(other, table, "note", tmp_path / "theirs.csv")
    predict_table(ready, table, tmp_path / "ours.csv", None)
    ours, theirs = (
        list(csv.reader((tmp_path / name).read_text("utf-8").splitlines())) for name in ("ours.csv", "theirs.csv")
    )
    assert ours[0] == theirs[0] == ["note", "predicted", "probability", "p_a", "p_b", "p_c"]
    for one, two in zip(ours[1:], theirs[1:], strict=True):
        assert one[:2] == two[:2]
        np.testing.assert_allclose(np.array(one[2:], float), np.array(two[2:], float), atol=2e-6)


def test_a_language_model_gives_its_logits(tmp_path):
    found = onnx.write(Exportable("run", language_model(), TOKENIZER, str), tmp_path / "onnx")
    assert found.compared and found.max_logit_difference < 1e-4
    assert not (tmp_path / "onnx" / "predict.py").exists()


def test_int8_says_what_it_costs_and_predicts_a_text_the_same_in_any_batch(tmp_path, caplog):
    targets = [0, 1, 0, 1, 1, 0, 1, 0, 1]
    found = onnx.write(thing(classifier(), targets=targets), tmp_path / "onnx", quantize="int8")
    assert not [own for own in caplog.records if own.levelno >= 30]  # no advice meant for onnxruntime's developers
    assert found.summary.startswith("int8: ") and "95 % " in found.summary
    assert found.max_logit_difference > 1e-4  # else it was not quantized
    other = OnnxClassifier(tmp_path / "onnx")
    np.testing.assert_array_equal(other.logits(TEXTS)[:1], other.logits(TEXTS[:1]))
    assert not [*(tmp_path / "onnx").glob("fp32*")]


def test_a_graph_that_reads_differently_is_never_there(tmp_path, monkeypatch):
    class Off(onnx.LastTokenLogits):
        def forward(self, input_ids, attention_mask):
            return self.classifier(input_ids, attention_mask.sum(dim=1) - 1).flip(1)

    monkeypatch.setattr(onnx, "LastTokenLogits", Off)
    with pytest.raises(WeightsError, match="onnxruntime reads the export differently"):
        onnx.write(thing(classifier()), tmp_path / "onnx")
    assert not [*tmp_path.iterdir()]


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(RunError, match=r"no onnxscript.*pip install 'gpt2-finetune\[onnx\]'"):
        onnx.write(thing(classifier()), tmp_path / "onnx")
    assert not [*tmp_path.iterdir()]


def test_an_encoder_decoder_is_refused(tmp_path):
    model = EncoderDecoder(EncoderDecoderConfig(TOKENIZER.vocab_size, 32, 16, 1, 2))
    with pytest.raises(RunError, match="Export it with --format hf"):
        onnx.write(Exportable("run", model, TOKENIZER, str), tmp_path / "onnx")


def test_the_command_predicts_without_torch(written, tmp_path):
    directory, model, _ = written
    code = (
        "import sys\nfrom finetune.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'torch', 'transformers', 'pandas', 'sklearn', 'scipy'} & {*sys.modules}), file=sys.stderr)"
    )
    table = tmp_path / "in.csv"
    table.write_text("note,id\nhello,1\n=1+1,2\n,3\n", encoding="utf-8")
    for arguments in ([*TEXTS[:2]], ["--csv", table, "--out", tmp_path / "ours.csv"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "predict", directory, *arguments], text=True, capture_output=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "[]"
    alone = subprocess.run(
        [sys.executable, directory / "predict.py", "--csv", table, "--text", "note", "--out", tmp_path / "theirs.csv"],
        text=True,
        capture_output=True,
        cwd=tmp_path,
    )
    assert alone.returncode == 0, alone.stderr
    ours, theirs = ((tmp_path / name).read_text(encoding="utf-8") for name in ("ours.csv", "theirs.csv"))
    assert ours == theirs and len(ours.splitlines()) == 4


def test_predict_py_imports_three_packages_and_nothing_of_ours(written, tmp_path):
    directory, _, _ = written
    code = (
        "import sys, predict\nmodel = predict.OnnxClassifier(sys.argv[1])\nprint(model.predict(['hello'])[0][0])\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'sklearn', 'scipy', 'finetune'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, directory], text=True, capture_output=True, cwd=directory, env={"PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    label, loaded = done.stdout.splitlines()
    assert label in LABELS and loaded == "[]"


def test_a_bundle_in_onnx_opens_where_one_in_torch_does(written):
    directory, model, _ = written
    bundle = open_bundle(directory)
    assert isinstance(bundle, OnnxBundle) and bundle.columns == {"text": "note", "label": "kind"}
    labels, probabilities = bundle.predict(TEXTS)
    assert labels == OnnxClassifier(directory).predict(TEXTS)[0]
    np.testing.assert_allclose(probabilities, OnnxClassifier(directory).probabilities(TEXTS))
    with pytest.raises(DataError, match="text 1 is empty"):
        bundle.logits(["a", ""])


def test_a_damaged_graph_or_another_vocabulary_is_refused(written, tmp_path):
    import shutil

    directory, _, _ = written
    for name, content in (("model.onnx", b"no graph"), ("vocab.json", None)):
        copy = Path(shutil.copytree(directory, tmp_path / name))
        if content:
            (copy / name).write_bytes(content)
        else:
            vocab = json.loads((copy / name).read_text(encoding="utf-8"))
            vocab["!"], vocab['"'] = vocab['"'], vocab["!"]
            (copy / name).write_text(json.dumps(vocab), encoding="utf-8")
        with pytest.raises(WeightsError, match=f"damaged or was edited; got {name} has changed since"):
            open_bundle(copy)
        write_manifest(copy)
        with pytest.raises(WeightsError, match="cannot be read"):
            open_bundle(copy)


def test_a_head_of_its_own_is_refused(tmp_path):
    tagger = Exportable("run", language_model(), TOKENIZER, str, layout=lambda _: NotImplemented)
    with pytest.raises(RunError, match="a head of its own, which ONNX does not support"):
        onnx.write(tagger, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_shape_other_than_gpt2_is_refused(tmp_path):
    from finetune.models.transformer import LLAMA, Transformer, TransformerConfig

    model = Transformer(TransformerConfig(TOKENIZER.vocab_size, 32, 32, 2, 2, **LLAMA)).initialise(0)
    with pytest.raises(RunError, match="a from-scratch decoder, which this format does not support"):
        onnx.write(Exportable("run", model, TOKENIZER, str), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_one_label_is_equal_or_not_and_of_many_all_must_be():
    assert equal_rows(np.array([0, 2, 1]), np.array([0, 1, 1])).tolist() == [True, False, True]
    many = np.array([[True, False], [True, True], [False, False]])
    assert equal_rows(many, np.array([[True, True], [True, True], [True, True]])).tolist() == [False, True, False]


@pytest.mark.parametrize(("weights", "apart"), [(2**28, False), (2**28 + 1, True)])
def test_weights_of_more_than_a_gibibyte_lie_beside_the_graph(tmp_path, monkeypatch, weights, apart):
    model, saved = language_model(), []
    program = SimpleNamespace(
        model=SimpleNamespace(metadata_props={}), save=lambda path, external_data: saved.append((path, external_data))
    )
    monkeypatch.setattr(onnx.torch.onnx, "export", lambda *given, **options: program)
    monkeypatch.setattr(model, "parameters", lambda: iter([SimpleNamespace(numel=lambda: weights)]))
    onnx._trace(model, tmp_path / "model.onnx", {"labels": "[]"})
    assert saved == [(str(tmp_path / "model.onnx"), apart)] and program.model.metadata_props == {"labels": "[]"}

"""Runs to serve that are made in a second: a classifier with hostile labels, mini as an instruct run, a tiny seq2seq."""

import csv
import json
import random
import shutil
import socket
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

LABELS = ["ham", "<img src=x onerror=hurt()>"]
WORDS = (["lunch", "home", "mum", "train", "later"], ["win", "cash", "prize", "claim", "<script>hurt()</script>"])
QUESTION = "Name a colour."


def rows(count, seed):
    """(text, label) rows, the labels in turn; the row of a training row is also in its text."""
    draw = random.Random(seed)
    return [(" ".join(draw.choices(WORDS[at % 2], k=4)) + f" {at}", LABELS[at % 2]) for at in range(count)]


@pytest.fixture(scope="session")
def classifier_run(tiny, tmp_path_factory):
    """A run's directory with all that serve reads of one: recipe, bundle, training rows, predictions."""
    from finetune.estimator import TextClassifier
    from finetune.pipeline import make_recipe
    from finetune.tasks.classify.bundle import open_bundle

    run = tmp_path_factory.mktemp("runs") / "messages"
    (run / "data").mkdir(parents=True)
    train, test = rows(80, 1), rows(30, 2)
    settings = {"weights": tiny, "epochs": 4, "lr": 1e-2, "batch_size": 8}
    TextClassifier(**settings).fit(*map(list, zip(*train, strict=True))).save(run / "export" / "hf")
    (run / "recipe.json").write_text(make_recipe("spam-classifier").model_dump_json())
    with open(run / "data" / "train.jsonl", "w") as file:
        for number, (text, label) in enumerate(train):
            file.write(json.dumps({"row": number, "text": text, "label": label}) + "\n")
    bundle = open_bundle(run)
    probabilities = bundle.probabilities(bundle.logits([text for text, _ in test]))
    with open(run / "predictions.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["row", "text", "label", "predicted", "probability", *(f"p_{name}" for name in bundle.labels)])
        for number, ((text, label), p) in enumerate(zip(test, probabilities, strict=True)):
            table.writerow([number, text, label, bundle.labels[p.argmax()], p.max(), *p])
    return run


@pytest.fixture(scope="session")
def instruct_run(tmp_path_factory):
    """An instruct run of the bundled model, which has learnt nothing: it writes text all the same."""
    from finetune.hub.assets import asset
    from finetune.pipeline import make_recipe

    run = tmp_path_factory.mktemp("runs") / "talk"
    shutil.copytree(asset("weights", "mini"), run / "export" / "hf")
    (run / "recipe.json").write_text(make_recipe("instruct", ["instruct.max_new_tokens=24"]).model_dump_json())
    return run


@pytest.fixture(scope="session")
def seq2seq_export(tmp_path_factory):
    """The export of a tiny encoder-decoder."""
    from finetune.checkpoints.own_layout import write_own
    from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
    from finetune.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bytes()
    shape = {"vocab_size": tokenizer.vocab_size, "context": 32, "width": 16, "layers": 2, "heads": 2}
    model = EncoderDecoder(EncoderDecoderConfig(**shape, encoder_layers=1)).initialise(3, std=0.5).eval()
    use = {"family": "encoder-decoder", "max_length": 16, "max_new_tokens": 8, "beams": 2, "length_penalty": 1.0}
    directory = tmp_path_factory.mktemp("exports") / "pairs"
    write_own(directory, model, tokenizer, extra_files={"seq2seq.json": json.dumps(use)})
    return directory


@pytest.fixture(scope="session")
def tagger_bundle(tmp_path_factory):
    """A tagger that has learnt nothing: it finds names of two kinds, one of them hostile, all the same."""
    from finetune.evaluation.results import StartWeights
    from finetune.models.gpt import GPT, GPTConfig
    from finetune.tasks.tag.bundle import TagBundleCard
    from finetune.tasks.tag.export import write_tagger
    from finetune.tasks.tag.model import Tagger
    from finetune.tokenizer import Tokenizer

    tokenizer, tags = Tokenizer.of_bytes(), ["O", *(f"{part}-{kind}" for kind in (LABELS[1], "place") for part in "BI")]
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 64, 16, 1, 2)).initialise(2, std=0.5)
    model = Tagger(gpt, len(tags)).initialise_head(3)
    model.head.weight.data *= 50
    card = TagBundleCard(
        schema_version=1,
        task="tag",
        tags=tags,
        max_length=40,
        weights=StartWeights("tiny", "here", "", {}, fallback=False, note=""),
        tokenizer_sha256=tokenizer.fingerprint(),
        data_sha256="",
        recipe_sha256="",
    )
    directory = tmp_path_factory.mktemp("exports") / "names"
    write_tagger(directory, model.eval(), tokenizer, card)
    return directory


@pytest.fixture(scope="session")
def client():
    """``client(directory, **limits)``: a context with a client of the application, its model and its worker."""

    @contextmanager
    def opened(directory, **limits):
        from dataclasses import replace

        from starlette.testclient import TestClient

        from finetune.serve.app import build_app
        from finetune.serve.limits import Limits
        from finetune.serve.opening import open_model
        from finetune.serve.worker import Worker

        chosen = replace(Limits(), **limits)
        worker = Worker(chosen.waiting)
        served = open_model(str(directory), worker)
        app = build_app(served, worker, limits=chosen)
        with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as ready:
            ready.served, ready.worker = served, worker
            yield ready
        worker.close()
        worker.join(10)

    return opened


@pytest.fixture(scope="session")
def server():
    """``server(directory)``: a context with a real server in a thread, its address and its worker."""
    import threading

    @contextmanager
    def running(directory):
        import uvicorn

        from finetune.serve.app import build_app
        from finetune.serve.opening import open_model
        from finetune.serve.worker import Worker

        worker = Worker(512)
        served = open_model(str(directory), worker)
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        config = uvicorn.Config(build_app(served, worker), log_level="error", timeout_graceful_shutdown=1)
        started = uvicorn.Server(config)
        thread = threading.Thread(target=started.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield SimpleNamespace(
                address=f"http://127.0.0.1:{listening.getsockname()[1]}", worker=worker, name=served.name, served=served
            )
        finally:
            worker.close()
            started.should_exit = True
            thread.join(20)
            listening.close()
            worker.join(10)

    return running


@pytest.fixture(scope="session")
def words():
    """The labels and rows above, for the test modules beside this file."""
    return SimpleNamespace(labels=LABELS, rows=rows, question=QUESTION)

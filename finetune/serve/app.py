"""The application: the page, the routes of the served model, and the error responses."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse
from pydantic import Field

import finetune
from finetune.evaluation.aims import ABSTAIN
from finetune.serve.classifier import Classifier, check_texts
from finetune.serve.guard import Guard
from finetune.serve.limits import Limits
from finetune.serve.openai import Body, Sampling, openai_routes
from finetune.serve.opening import Served
from finetune.serve.problems import Problem, add_handlers
from finetune.serve.source import Asked, SourceReader
from finetune.serve.streams import answer
from finetune.serve.tables import DONE, Filling, Tables
from finetune.serve.tagger import TextTagger
from finetune.serve.thresholds import curve, read_tested
from finetune.serve.worker import Worker
from finetune.serve.writer import Writer
from finetune.tasks.classify.predictor import ManyLabels

PAGE = Path(__file__).parent / "page"
FILES = {"page.css": "text/css", "page.js": "text/javascript"}


class Texts(Body):
    """Texts to predict."""

    texts: Annotated[list[str], Field(min_length=1)]


class OneText(Body):
    """A text."""

    text: str


class Source(Body):
    """A source to write a target for; beams and max_new_tokens default to the run's settings."""

    source: str
    beams: Annotated[int | None, Field(ge=1, le=16)] = None
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None


class NextToken(Sampling):
    """A text, and the sampling settings for its next token."""

    prompt: str


def build_app(served: Served, worker: Worker, names: tuple[str, ...] = (), limits: Limits | None = None) -> FastAPI:
    """The application for a model. names: host names that the server accepts besides localhost and IP addresses."""
    limits = limits or Limits()
    about: dict[str, Any] = {"name": served.name, "kind": served.kind, "version": finetune.__version__}
    closing: list[Callable[[], None]] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for close in closing:
                close()

    app = FastAPI(
        title=f"finetune serve: {served.name}",
        version=finetune.__version__,
        description=f"A {served.kind}. Errors are JSON: error.message says what is wrong.",
        docs_url=None,  # these pages would load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, names=names, limits=limits)
    add_handlers(app)
    app.include_router(_page_routes(about))
    if served.classifier:
        tables = Tables(served.classifier.for_tables, limits, served.directory)
        closing.append(tables.close)
        about |= _about_classifier(served.classifier)
        app.include_router(_classifier_routes(served.classifier, limits))
        app.include_router(_table_routes(tables))
    if served.tagger:
        about["kinds"] = served.tagger.kinds
        app.include_router(_tagger_routes(served.tagger, limits))
    if served.source:
        use = served.source.use
        about |= {"beams": use.beams, "max_new_tokens": use.max_new_tokens}
        app.include_router(_source_routes(served.source, worker, limits))
    if served.writer:
        style = served.instruct
        about |= {
            "chat": style is not None,
            "remembers": style is not None and style.style == "chat" and not style.template,
        }
        app.include_router(openai_routes(served.name, served.writer, served.instruct, limits))
        app.include_router(_next_routes(served.writer, limits))
    return app


def _page_routes(about: dict[str, Any]) -> APIRouter:
    router = APIRouter(tags=["page"])

    @router.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    @router.get("/assets/{name}", include_in_schema=False)
    async def file(name: str) -> FileResponse:
        if name not in FILES:
            raise Problem(404, "there is no such file")
        return FileResponse(PAGE / name, media_type=f"{FILES[name]}; charset=utf-8")

    @router.get("/about")
    async def describe_model() -> dict[str, Any]:
        """The served model: its name, kind and settings."""
        return about

    return router


def _about_classifier(classifier: Classifier) -> dict[str, Any]:
    bundle = classifier.bundle
    return {
        "labels": bundle.labels,
        "several": isinstance(bundle, ManyLabels),
        "positive": bundle.positive,
        "aim": classifier.card.aim,
        "threshold": bundle.threshold,
        "thresholds": bundle.thresholds,
        "abstain_below": bundle.abstain_below,
        "costs": bundle.costs is not None,
        "abstain": ABSTAIN,
    }


def _classifier_routes(classifier: Classifier, limits: Limits) -> APIRouter:
    router, worker = APIRouter(tags=["classifier"]), classifier.worker
    file = classifier.run.path("predictions.csv") if classifier.run else None
    tested = read_tested(file, classifier.labels, isinstance(classifier.bundle, ManyLabels)) if file else None

    @router.post("/predict")
    async def predict(request: Request, asked: Texts) -> dict[str, Any]:
        """The label of each text with its probability, and the decision by the run's rule, as in ``finetune predict``."""
        check_texts(asked.texts, limits.texts, limits.characters)
        logits = await answer(request, worker.submit(classifier.predict_work, asked.texts), limits)
        return {"labels": classifier.labels, "predictions": list(map(vars, classifier.of_logits(logits)))}

    @router.post("/explain")
    async def explain(request: Request, asked: OneText) -> dict[str, Any]:
        """The decrease in log-odds when each token is hidden, and the nearest training rows."""
        check_texts([asked.text], 1, limits.characters)
        found = await answer(request, worker.submit(classifier.explain_work, asked.text), limits)
        return vars(found)

    @router.get("/thresholds")
    async def thresholds(label: str) -> dict[str, Any]:
        """For each threshold on a label's probability: the number of test rows at or above it, and of those with the label."""
        if label not in classifier.labels:
            raise Problem(404, "there is no such label", got=label[:80], known=", ".join(classifier.labels[:20]))
        if tested is None:
            raise Problem(404, "there are no test rows here", do="Serve the run itself instead of its bundle.")
        return vars(curve(tested, label))

    return router


def _table_routes(tables: Tables) -> APIRouter:
    router = APIRouter(prefix="/tables", tags=["tables"])

    def shown(filling: Filling) -> dict[str, Any]:
        return {name: getattr(filling, name) for name in ("id", "name", "rows", "done", "state", "message")}

    @router.post("", status_code=202)
    async def upload_table(request: Request, name: str, text: str | None = None) -> dict[str, Any]:
        """Send a table as the request body. name: its file name. text: its text column, if it cannot be inferred."""
        source = await tables.receive(name, request.stream())
        return shown(await anyio.to_thread.run_sync(tables.start, source, name, text))

    @router.get("/{id}")
    async def table_status(id: str) -> dict[str, Any]:
        """The status of a table: running, done or failed."""
        return shown(tables.get(id))

    @router.get("/{id}/file")
    async def download_table(id: str) -> FileResponse:
        """The table with its predictions."""
        filling = tables.get(id)
        if filling.state != DONE:
            raise Problem(404, "the table is not ready", got=filling.state, do="Ask again later.")
        return FileResponse(filling.target, media_type="application/octet-stream", filename=filling.name)

    @router.delete("/{id}")
    async def delete_table(id: str) -> dict[str, Any]:
        """Cancel the prediction of a table, and delete it."""
        tables.delete(id)
        return {"deleted": id}

    return router


def _tagger_routes(tagger: TextTagger, limits: Limits) -> APIRouter:
    router = APIRouter(tags=["tagger"])

    @router.post("/tag")
    async def tag_names(request: Request, asked: Texts) -> dict[str, Any]:
        """The names in each text, as in ``finetune predict``: kind, text, start and end in characters, and probability."""
        check_texts(asked.texts, limits.texts, limits.characters)
        found = await answer(request, tagger.worker.submit(tagger.names_work, asked.texts), limits)
        return {"kinds": tagger.kinds, "names": [list(map(vars, names)) for names in found]}

    return router


def _source_routes(reader: SourceReader, worker: Worker, limits: Limits) -> APIRouter:
    router = APIRouter(tags=["seq2seq"])

    @router.post("/write")
    async def write_target(request: Request, asked: Source) -> dict[str, Any]:
        """The target for a source, and the attention of each target token (rows) to the source tokens (columns)."""
        check_texts([asked.source], 1, limits.characters)
        new = asked.max_new_tokens or reader.use.max_new_tokens
        if new > limits.new_tokens:
            raise Problem(413, "too many tokens", got=f"{new:,}", known=f"{limits.new_tokens:,} at most")
        wanted = Asked(asked.source, asked.beams or reader.use.beams, new)
        found = await answer(request, worker.submit(reader.write_work, wanted), limits)
        return {"target": found.text, "attention": vars(found.attention), "notes": found.notes}

    return router


def _next_routes(writer: Writer, limits: Limits) -> APIRouter:
    router = APIRouter(tags=["language model"])

    @router.post("/next")
    async def next_token(request: Request, asked: NextToken) -> dict[str, Any]:
        """The most likely next tokens, with their probabilities before and after the sampling settings are applied."""
        if len(asked.prompt) > limits.characters:
            raise Problem(413, "the text is too long", known=f"{limits.characters:,} characters at most")
        item = writer.prompt_ids(asked.prompt), asked.decoding(1.0, None)
        found = await answer(request, writer.worker.submit(writer.next_work, item), limits)
        return {"tokens": list(map(vars, found))}

    return router

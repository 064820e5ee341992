"""Errors as the server sends them: JSON in the form that OpenAI's clients read."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from finetune.console import warn
from finetune.errors import FinetuneError, shorten

KINDS = {
    400: "invalid_request_error",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    500: "server_error",
    503: "overloaded",
    504: "timeout",
}


class Problem(FinetuneError):
    """An error with its HTTP status."""

    def __init__(self, status: int, what: str, *, got: str = "", known: str = "", do: str = ""):
        super().__init__(what, got=got, known=known, do=do)
        self.status = status


def body_of(status: int, message: str) -> dict[str, Any]:
    """The JSON of an error."""
    kind = KINDS.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def response_to(status: int, message: str) -> JSONResponse:
    """The response for an error; a client may retry later after 429 and 503."""
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(body_of(status, message), status, headers)


def status_of(error: Exception) -> int:
    """The HTTP status for an exception."""
    return error.status if isinstance(error, Problem) else 400 if isinstance(error, FinetuneError) else 500


def message_of(error: Exception) -> str:
    """The message for the client; the details of a bug go only to the terminal."""
    if isinstance(error, FinetuneError):
        return str(error)
    warn(f"serve: {type(error).__name__}: {error}")
    return "internal server error; details are in the server's terminal"


def add_handlers(app: FastAPI) -> None:
    """Send every error in this form."""

    async def of_exception(request: Request, error: Exception) -> JSONResponse:
        return response_to(status_of(error), message_of(error))

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        said = {
            404: f"there is no {request.url.path} here",
            405: f"{request.url.path} does not support {request.method}",
        }
        known = "See: /openapi.json"
        return response_to(error.status_code, f"{said.get(error.status_code, error.detail)}. {known}")

    async def of_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        parts = []
        for found in error.errors():
            where = ".".join(str(part) for part in found["loc"][1:]) or "the body"
            parts.append(f"{shorten(where)}: {found['msg'].removeprefix('Value error, ')}")
        return response_to(400, "; ".join(parts[:5]) + ". See: /openapi.json")

    app.add_exception_handler(FinetuneError, of_exception)
    app.add_exception_handler(Exception, of_exception)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)

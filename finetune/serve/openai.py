"""The routes that OpenAI's clients call: /v1/models, /v1/completions and /v1/chat/completions, streaming or not.

Continuations and their defaults are those of ``finetune generate``, answers those of ``finetune chat``.
"""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from finetune.models.sampling import Decoding
from finetune.serve.limits import Limits
from finetune.serve.problems import Problem
from finetune.serve.streams import Pieces, stream_events
from finetune.serve.writer import Writer, Writing, Written
from finetune.tasks.instruct.chat import FromFirstWord, prompt_of, remembers, stop_texts
from finetune.tasks.instruct.records import Message
from finetune.tasks.instruct.settings import Instruct

NEW_TOKENS, WARM, TOP_K = 60, 0.8, 50  # for a continuation, as in finetune generate
GREEDY = 0.0  # for an answer, as in finetune chat
MOST_STOPS, MOST_MESSAGES = 8, 200


class Body(BaseModel):
    """A JSON body. A field that means nothing here is an error rather than without effect."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(Body):
    """include_usage: send a last event with the numbers of tokens."""

    include_usage: bool = False


class Sampling(Body):
    """How tokens are chosen. top_k, min_p, repetition_penalty and no_repeat_ngram are not part of OpenAI's API."""

    temperature: Annotated[float | None, Field(ge=0, le=100, description="0: greedy")] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    no_repeat_ngram: Annotated[int | None, Field(ge=1)] = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0

    def decoding(self, temperature: float, top_k: int | None, number: int = 0) -> Decoding:
        """The settings, with the command's defaults for missing ones. number: the text's, if there are several."""
        filtered = self.top_k is not None or self.top_p is not None or self.min_p is not None
        warm = temperature if self.temperature is None else self.temperature
        return Decoding(
            temperature=warm,
            top_k=self.top_k if filtered or warm == 0 else top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
            seed=self.seed + number,
        )


class Wanted(Sampling):
    """The fields that both kinds of completion share."""

    model: Annotated[str, Field(description="the model's name, as listed by /v1/models")]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int, Field(ge=1, description="number of texts; each has its own seed: seed, seed + 1, ...")] = 1
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, Field(description="ignored")] = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None


class CompletionRequest(Wanted):
    """A text to continue, or several."""

    prompt: str | Annotated[list[str], Field(min_length=1)]


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: Annotated[str | None, Field(description="ignored")] = None

    def text(self) -> str:
        """Its content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ChatRequest(Wanted):
    """A conversation up to its next answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None


@dataclass(frozen=True)
class Form:
    """The field names of one kind of completion in OpenAI's JSON."""

    prefix: str
    whole: str
    chunk: str

    def choice(self, index: int, text: str, reason: str | None, streamed: bool, first: bool = False) -> dict[str, Any]:
        """A choice, or a chunk of one."""
        if self.prefix == "cmpl":
            return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        message: dict[str, str] = {"role": "assistant"} if first or not streamed else {}
        if text or not streamed:
            message["content"] = text
        return {"index": index, "delta" if streamed else "message": message, "logprobs": None, "finish_reason": reason}


COMPLETION = Form("cmpl", "text_completion", "text_completion")
CHAT = Form("chatcmpl", "chat.completion", "chat.completion.chunk")


class Completions:
    """The texts generated for a request, and their JSON."""

    def __init__(self, name: str, form: Form, pieces: Pieces, prompt_tokens: int):
        self.form, self.pieces, self.prompt_tokens = form, pieces, prompt_tokens
        self.head = {"id": f"{form.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}

    async def whole(self, request: Request, texts: int) -> dict[str, Any]:
        """The JSON of the finished texts."""
        parts: list[list[str]] = [[] for _ in range(texts)]
        ended: dict[int, Written] = {}
        async with aclosing(self.pieces.each(request, streamed=False)) as each:
            async for number, new in each:
                if isinstance(new, str):
                    parts[number].append(new)
                else:
                    ended[number] = new
        choices = [
            self.form.choice(number, "".join(part), ended[number].reason, streamed=False)
            for number, part in enumerate(parts)
        ]
        notes = list(dict.fromkeys(note for own in ended.values() for note in own.notes))
        usage = self._usage(sum(own.tokens for own in ended.values()))
        found = {**self.head, "object": self.form.whole, "choices": choices, "usage": usage}
        return found | ({"notes": notes} if notes else {})

    async def events(self, request: Request, usage: bool) -> AsyncIterator[dict[str, Any]]:
        """The JSON of each piece."""
        head = {**self.head, "object": self.form.chunk}
        begun: set[int] = set()
        tokens = 0
        async with aclosing(self.pieces.each(request, streamed=True)) as each:
            async for number, new in each:
                text, reason = (new, None) if isinstance(new, str) else ("", new.reason)
                choice = self.form.choice(number, text, reason, streamed=True, first=number not in begun)
                begun.add(number)
                more: dict[str, Any] = {}
                if isinstance(new, Written):
                    tokens += new.tokens
                    more = {"notes": new.notes} if new.notes else {}
                yield {**head, "choices": [choice], **more}
        if usage:
            yield {**head, "choices": [], "usage": self._usage(tokens)}

    def _usage(self, tokens: int) -> dict[str, int]:
        total = self.prompt_tokens + tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": tokens, "total_tokens": total}


def openai_routes(name: str, writer: Writer, instruct: Instruct | None, limits: Limits) -> APIRouter:
    """The routes. instruct: how an instruct run writes its prompts; None: the model has no chat."""
    router = APIRouter(prefix="/v1", tags=["OpenAI API"])
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "gpt2-finetune"}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The one model that this server has."""
        return {"object": "list", "data": [card]}

    @router.get("/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        """The model with this name."""
        _check_name(model, name)
        return card

    @router.post("/completions", response_model=None)
    async def completions(request: Request, asked: CompletionRequest) -> Response | dict[str, Any]:
        """Continue texts."""
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        new, stop = _check(asked, name, limits, asked.max_tokens or NEW_TOKENS, len(prompts) * asked.n, WARM)
        for prompt in prompts:
            _check_length(prompt, limits)
        pieces = Pieces(writer.worker, writer.write_work, limits)
        every = [writer.prompt_ids(prompt) for prompt in prompts]
        writings: list[Writing] = []
        for ids in every:
            for number in range(asked.n):
                decoding = asked.decoding(WARM, TOP_K, number)
                writings.append(Writing(ids, new, decoding, pieces.piece_of(len(writings)), stop))
        return await _respond(request, asked, Completions(name, COMPLETION, pieces, sum(map(len, every))), writings)

    if instruct is None:
        return router
    own_stop, default_new = tuple(stop_texts(instruct)), instruct.max_new_tokens

    @router.post("/chat/completions", response_model=None)
    async def chat(request: Request, asked: ChatRequest) -> Response | dict[str, Any]:
        """Answer the last message in the run's own prompt style."""
        wanted = asked.max_completion_tokens or asked.max_tokens or default_new
        new, stop = _check(asked, name, limits, wanted, asked.n, GREEDY)
        messages = [Message(own.role, own.text()) for own in asked.messages]
        for message in messages:
            _check_length(message.content, limits)
        _check_turns(messages, instruct)
        prompt = prompt_of(messages, writer.tokenizer, instruct, writer.model.config.context, new)
        pieces = Pieces(writer.worker, writer.write_work, limits)
        writings = [
            Writing(
                prompt.ids,
                new,
                asked.decoding(GREEDY, None, number),
                FromFirstWord(pieces.piece_of(number)),
                own_stop + stop,
            )
            for number in range(asked.n)
        ]
        return await _respond(request, asked, Completions(name, CHAT, pieces, len(prompt.ids)), writings)

    return router


async def _respond(
    request: Request, asked: Wanted, completions: Completions, writings: list[Writing]
) -> Response | dict[str, Any]:
    completions.pieces.begin(writings)
    if not asked.stream:
        return await completions.whole(request, len(writings))
    usage = asked.stream_options is not None and asked.stream_options.include_usage
    return await stream_events(completions.events(request, usage))


def _check(
    asked: Wanted, name: str, limits: Limits, new: int, texts: int, temperature: float
) -> tuple[int, tuple[str, ...]]:
    """The number of new tokens and the texts that end one. Raises Problem."""
    _check_name(asked.model, name)
    if new > limits.new_tokens:
        raise Problem(413, "too many tokens", got=f"max_tokens {new:,}", known=f"{limits.new_tokens:,} at most")
    if texts > limits.continuations:
        raise Problem(413, "too many texts", got=f"{texts}", known=f"{limits.continuations} at most")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if len(stop) > MOST_STOPS or not all(stop):
        raise Problem(400, "stop cannot be used", known=f"up to {MOST_STOPS} texts, none of them empty")
    if asked.n > 1 and asked.decoding(temperature, None).temperature == 0:
        raise Problem(
            400, "greedy decoding gives the same text every time", got=f"n {asked.n}", do="Give a temperature above 0."
        )
    return new, stop


def _check_name(model: str, name: str) -> None:
    if model != name:
        raise Problem(404, "there is no such model here", got=model[:80], known=name)


def _check_length(text: str, limits: Limits) -> None:
    if len(text) > limits.characters:
        raise Problem(
            413, "the text is too long", got=f"{len(text):,} characters", known=f"{limits.characters:,} at most"
        )


def _check_turns(messages: list[Message], instruct: Instruct) -> None:
    """Raise Problem for messages that the prompt style cannot express."""
    turns = messages[1:] if messages[0].role == "system" else messages
    wanted = ["user" if at % 2 == 0 else "assistant" for at in range(len(turns))]
    if [own.role for own in turns] != wanted or len(turns) % 2 == 0:
        raise Problem(
            400,
            "the messages are not in an order that the model was trained on",
            known="optionally a system message, then user and assistant messages in turn, ending with the user's",
        )
    if len(messages) > 1 and not remembers(instruct):
        raise Problem(
            400,
            "the model was trained on one question and its answer",
            got=f"{len(messages)} messages",
            do="Send only the last question.",
        )

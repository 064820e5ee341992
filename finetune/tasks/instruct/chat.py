"""The command ``chat``: a conversation with an instruct run, in the prompt style that it was trained on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.checkpoints.sources import load
from finetune.console import warn
from finetune.errors import RunError
from finetune.models.sampling import Decoding
from finetune.models.text_stream import StopStrings, TextStream
from finetune.models.transformer import LanguageModel
from finetune.run import Run
from finetune.tasks.instruct.examples import conversation_ids
from finetune.tasks.instruct.prompts import markers
from finetune.tasks.instruct.records import Dialogue, Message
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import Tokenizer
from finetune.training.precision import device_type

QUIT, RESET = "/quit", "/reset"
HELP = f"{RESET} clears the conversation, {QUIT} or Ctrl-D ends it"


class FromFirstWord:
    """Writes text without leading white space, and stores what was written."""

    def __init__(self, write: Callable[[str], None]):
        self.write = write
        self.said: list[str] = []

    def __call__(self, new: str) -> None:
        """Write the next piece."""
        new = new if self.said else new.lstrip()
        if new:
            self.said.append(new)
            self.write(new)


@dataclass(frozen=True)
class Prompt:
    """The part of a conversation that the model reads."""

    ids: list[int]
    dropped: int  # number of first exchanges left out to make room for an answer
    cut: int  # number of tokens left out at the beginning of the last question


@dataclass
class Conversation:
    """The messages so far, and the model that answers."""

    model: LanguageModel
    tokenizer: Tokenizer
    settings: Instruct
    max_new_tokens: int
    decoding: Decoding
    messages: list[Message] = field(default_factory=list)

    def ask(self, text: str, write: Callable[[str], None]) -> None:
        """Write the answer to a question token by token, and keep both in the conversation."""
        import torch

        if not self.remembers():
            self.messages.clear()
        self.messages.append(Message("user", text))
        ids = torch.tensor([self._prompt()], device=self.model.token_embedding.weight.device)
        stop = stop_texts(self.settings)
        stream, show = TextStream(self.tokenizer, stop), FromFirstWord(write)
        notes: list[str] = []
        self.model.generate(
            ids,
            self.max_new_tokens,
            end=self.tokenizer.end_of_text,
            note=notes.append,
            stop=StopStrings(self.tokenizer, stop) if stop else None,
            on_tokens=lambda tokens: show(self._shown(stream, int(tokens))),
            **vars(self.decoding),
        )
        show(stream.close())
        write("\n" if show.said else "(no answer)\n")
        for note in notes:
            warn(note)
        self.messages.append(Message("assistant", "".join(show.said).strip()))

    def remembers(self) -> bool:
        """Whether the prompt style supports several turns."""
        return remembers(self.settings)

    def _shown(self, stream: TextStream, token: int) -> str:
        return "" if token == self.tokenizer.end_of_text else stream.push(token)

    def _prompt(self) -> list[int]:
        context = self.model.config.context
        prompt = prompt_of(self.messages, self.tokenizer, self.settings, context, self.max_new_tokens)
        del self.messages[: 2 * prompt.dropped]
        if prompt.dropped:
            warn(
                f"the context of {context:,} tokens is full: dropped the first "
                f"{'exchange' if prompt.dropped == 1 else f'{prompt.dropped} exchanges'}"
            )
        elif prompt.cut:
            read = len(prompt.ids)
            warn(f"the prompt has {read + prompt.cut:,} tokens; the model reads only the last {read:,}")
        return prompt.ids


def remembers(settings: Instruct) -> bool:
    """Whether the prompt style supports several turns."""
    return settings.style == "chat" and not settings.template


def stop_texts(settings: Instruct) -> list[str]:
    """The texts that end an answer: the beginnings of another prompt's lines."""
    return [f"\n{marker}" for marker in markers(settings)]


def prompt_of(
    messages: list[Message], tokenizer: Tokenizer, settings: Instruct, context: int, max_new_tokens: int
) -> Prompt:
    """A conversation up to its next answer, without its first exchanges if they leave no room for the answer."""
    room, dropped = max(context - max_new_tokens, context // 2), 0
    system = [message for message in messages[:1] if message.role == "system"]
    turns = messages[len(system) :]
    while True:
        ids = conversation_ids(Dialogue(0, [*system, *turns]), tokenizer, settings)
        if len(ids) <= room or len(turns) == 1:
            return Prompt(ids[-room:], dropped, max(0, len(ids) - room))
        turns, dropped = turns[2:], dropped + 1


def open_conversation(directory: Path, max_new_tokens: int | None, **options: Any) -> Conversation:
    """A new conversation with a finished instruct run's model. options: the fields of ``Decoding``.

    Raises RunError for a run of another task, WeightsError for an unfinished run.
    """
    run = Run.at(directory)
    recipe = run.recipe()
    if recipe.task != "instruct":
        raise RunError(
            f"{directory}: not an instruct run",
            got=f"task {recipe.task}",
            known="task instruct",
            do="See: finetune run instruct",
        )
    decoding = Decoding(**options)
    gpt, tokenizer = load(str(run.directory))
    assert isinstance(gpt, LanguageModel), "an instruct run exports a language model"
    return Conversation(
        gpt.to(device_type()), tokenizer, recipe.instruct, max_new_tokens or recipe.instruct.max_new_tokens, decoding
    )


def converse(conversation: Conversation, lines: Iterable[str], write: Callable[[str], None]) -> None:
    """Answer each line until there are no more or one is /quit."""
    for line in lines:
        text = line.encode("utf-8", "replace").decode().strip()
        if text == QUIT:
            return
        if text == RESET:
            conversation.messages.clear()
            warn("conversation cleared")
        elif text.startswith("/"):
            warn(f"unknown command {text.split()[0]!r}: {HELP}")
        elif text:
            conversation.ask(text, write)

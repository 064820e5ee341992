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
        stop = [f"\n{marker}" for marker in markers(self.settings)]
        stream = TextStream(self.tokenizer, stop)
        said: list[str] = []

        def show(new: str) -> None:
            new = new if said else new.lstrip()
            if new:
                said.append(new)
                write(new)

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
        write("\n" if said else "(no answer)\n")
        for note in notes:
            warn(note)
        self.messages.append(Message("assistant", "".join(said).strip()))

    def remembers(self) -> bool:
        """Whether the prompt style supports several turns."""
        return self.settings.style == "chat" and not self.settings.template

    def _shown(self, stream: TextStream, token: int) -> str:
        return "" if token == self.tokenizer.end_of_text else stream.push(token)

    def _prompt(self) -> list[int]:
        """The conversation, without its first exchanges if they leave no room for an answer."""
        room = max(self.model.config.context - self.max_new_tokens, self.model.config.context // 2)
        forgotten = 0
        while True:
            ids = conversation_ids(Dialogue(0, self.messages), self.tokenizer, self.settings)
            if len(ids) <= room or len(self.messages) == 1:
                break
            del self.messages[:2]
            forgotten += 1
        if forgotten:
            warn(
                f"the context of {self.model.config.context:,} tokens is full: dropped the first "
                f"{'exchange' if forgotten == 1 else f'{forgotten} exchanges'}"
            )
        elif len(ids) > room:
            warn(f"the prompt has {len(ids):,} tokens; the model reads only the last {room:,}")
        return ids[-room:]


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

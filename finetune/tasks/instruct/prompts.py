"""Instruction records as prompts and answers, in the words of a style or of an own template.

Source of the style alpaca: Taori et al. 2023, Stanford Alpaca, github.com/tatsu-lab/stanford_alpaca, train.py.
"""

import json
import re
from dataclasses import dataclass

from finetune.errors import DataError, RecipeError
from finetune.tasks.instruct.records import Instruction, InstructRecord
from finetune.tasks.instruct.settings import Instruct

FIELDS = ("instruction", "input")
FIELD = re.compile(r"\{([^{}\n]*)\}")
_BELOW = "Below is an instruction that describes a task"
_WRITE = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
TEMPLATES = {  # with an input, and without
    "alpaca": (
        f"{_BELOW}, paired with an input that provides further context. {_WRITE}### Input:\n{{input}}\n\n### Response:",
        f"{_BELOW}. {_WRITE}### Response:",
    ),
    "plain": ("{instruction}\n{input}\n", "{instruction}\n"),
}
_CHAT_TEMPLATE = (  # as _chat
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{- 'System: ' + message['content'] + '\\n' -}}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- ('\\n' if loop.index0 > 0 and messages[loop.index0 - 1]['role'] == 'assistant' else '') "
    "+ 'User: ' + message['content'] + '\\n' -}}"
    "{%- else -%}{{- 'Assistant: ' + message['content'] + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)
_TELLING = 4  # characters of a prompt's line that tell it from any other text


@dataclass(frozen=True)
class Piece:
    """A part of an example's text: of its prompt, or a whole answer, which an end token follows."""

    text: str
    answer: bool


def pieces(record: InstructRecord, settings: Instruct) -> list[Piece]:
    """An example's text: prompts and answers in turn, the last an answer (empty in a record that has none).

    Raises RecipeError for a template that cannot be filled, DataError for a record that the style has no words for.
    """
    if settings.style == "chat" and not settings.template:
        return _chat(*record.conversation())
    with_input, without = _templates(settings)
    values = _single(record, settings)
    template = with_input if values["input"] else without
    if values["input"] and "{input}" not in template:
        raise DataError(
            f"record {record.row} has an input, and instruct.template has no place for it",
            do="Add {input} to the template.",
        )
    return [Piece(fill(template, values), answer=False), Piece(values["output"], answer=True)]


def prompt(record: InstructRecord, settings: Instruct) -> list[Piece]:
    """What a model is given to answer: everything before the last answer."""
    return pieces(record, settings)[:-1]


def markers(settings: Instruct) -> tuple[str, ...]:
    """What a line of a prompt begins with: an answer that holds such a line goes on by itself."""
    if settings.style == "chat" and not settings.template:
        return "System:", "User:", "Assistant:"
    literal = "\n".join(FIELD.sub("\n", template) for template in _templates(settings))
    lines = (line.strip() for line in literal.splitlines())
    return tuple(dict.fromkeys(line for line in lines if len(line) >= _TELLING))


def question(record: InstructRecord) -> str:
    """What is asked, without a style: two records with the same question belong on one side of a split."""
    system, exchanges = record.conversation()
    turns = [system, *(turn for exchange in exchanges for turn in exchange)]
    return "\n".join(turn for turn in turns[:-1] if turn)


def answer(record: InstructRecord) -> str:
    """The last answer, which a model's own is compared with."""
    return record.conversation()[1][-1][1]


def fill(template: str, values: dict[str, str]) -> str:
    """Put values in the places of their names, as plain text: what a value holds is never filled in itself."""
    return FIELD.sub(lambda found: values[found[1]], template)


def chat_template(settings: Instruct) -> str:
    """The style as a Jinja template for transformers' ``apply_chat_template``; messages have a role and a content."""
    if settings.style == "chat" and not settings.template:
        return _CHAT_TEMPLATE
    before, _, after = _templates(settings)[1].replace("{input}", "").partition("{instruction}")
    parts = after.split("{instruction}")
    asked = "messages[0]['content']"
    text = f" + {asked} + ".join(json.dumps(part, ensure_ascii=False) for part in (before, *parts))
    return (
        "{%- if messages[0]['role'] != 'user' or messages | length > 2 -%}"
        "{{- raise_exception('this model was trained on one question and its answer') -}}{%- endif -%}"
        f"{{{{- {text} -}}}}"
        "{%- if messages | length == 2 -%}{{- messages[1]['content'] + eos_token -}}{%- endif -%}"
    )


def ollama_template(settings: Instruct) -> str:
    """The style as a Go template, in which ollama writes the question to the place of .Prompt."""
    if settings.style == "chat" and not settings.template:
        return "{{ if .System }}System: {{ .System }}\n{{ end }}User: {{ .Prompt }}\nAssistant:"
    return fill(_templates(settings)[1], {"instruction": "{{ .Prompt }}", "input": ""})


def as_messages(record: InstructRecord, settings: Instruct) -> list[dict[str, str]] | None:
    """A record up to its last answer as messages; none where the style's prompt is more than a question."""
    if isinstance(record, Instruction) and record.input and (settings.style != "chat" or settings.template):
        return None
    system, exchanges = record.conversation()
    said = [{"role": "system", "content": system}] if system else []
    for user, assistant in exchanges:
        said += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return said[:-1]


def _templates(settings: Instruct) -> tuple[str, str]:
    """The prompt with an input, and without."""
    if not settings.template:
        return TEMPLATES[settings.style]
    named, known = FIELD.findall(settings.template), " and ".join(f"{{{name}}}" for name in FIELDS)
    unknown = [f"{{{name}}}" for name in named if name not in FIELDS]
    if unknown:
        raise RecipeError("instruct.template has a field that records do not have", got=", ".join(unknown), known=known)
    if "instruction" not in named:
        raise RecipeError("instruct.template has no {instruction}", got=repr(settings.template[:60]), known=known)
    return settings.template, settings.template


def _single(record: InstructRecord, settings: Instruct) -> dict[str, str]:
    """Instruction, input and output of a record; of messages, if they are one question and its answer."""
    if isinstance(record, Instruction):
        return {"instruction": record.instruction, "input": record.input, "output": record.output}
    system, exchanges = record.conversation()
    if system or len(exchanges) > 1:
        held = "a system message" if system else f"{len(exchanges)} questions"
        style = "an own template" if settings.template else f"style {settings.style}"
        raise DataError(
            f"record {record.row} has {held}; {style} takes one question and one answer",
            do="Use --set instruct.style=chat without a template.",
        )
    [(user, assistant)] = exchanges
    return {"instruction": user, "input": "", "output": assistant}


def _chat(system: str, exchanges: list[tuple[str, str]]) -> list[Piece]:
    """A line a turn. An answer begins with the space before it, so that its words are the tokens of running text."""
    found, before = [], f"System: {system}\n" if system else ""
    for user, assistant in exchanges:
        found += [Piece(f"{before}User: {user}\nAssistant:", answer=False), Piece(f" {assistant}", answer=True)]
        before = "\n"
    return found

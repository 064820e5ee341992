"""Format instruction records as prompts and answers, in a built-in style or with the user's template.

Source of the style alpaca: Taori et al. 2023, Stanford Alpaca, github.com/tatsu-lab/stanford_alpaca, train.py.
"""

import json
import re
from dataclasses import dataclass

from finetune.errors import DataError, RecipeError
from finetune.tasks.instruct.records import Instruction, InstructRecord
from finetune.tasks.instruct.settings import Instruct
from finetune.tokenizer import END_OF_TEXT

FIELDS = ("instruction", "input")
FIELD = re.compile(r"\{([^{}\n]*)\}")
_BELOW = "Below is an instruction that describes a task"
_WRITE = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
TEMPLATES = {  # with and without an input
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
    "{%- else -%}{{- 'Assistant:' + ('' if message['content'].startswith(' ') else ' ') "
    "+ message['content'] + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)
_OLLAMA_CHAT = (  # one turn, which ollama repeats; in the last turn it drops everything after .Response
    "{{ if .System }}System: {{ .System }}\n{{ end }}User: {{ .Prompt }}\nAssistant:"
    f'{{{{ if and .Response (ne (slice .Response 0 1) " ") }}}} {{{{ end }}}}{{{{ .Response }}}}{END_OF_TEXT}\n'
)
_TELLING = 4  # minimum characters of a prompt's line that identify it


@dataclass(frozen=True)
class Piece:
    """A part of an example's text: a part of the prompt, or a whole answer, which an end token follows."""

    text: str
    answer: bool


def pieces(record: InstructRecord, settings: Instruct) -> list[Piece]:
    """An example's text: alternating prompts and answers, the last an answer (empty if the record has none).

    Raises RecipeError for an invalid template, DataError for a record that the style cannot express.
    """
    if settings.style == "chat" and not settings.template:
        return _chat(*record.conversation())
    with_input, without = _templates(settings)
    values = _single(record, settings)
    template = with_input if values["input"] else without
    if values["input"] and "{input}" not in template:
        raise DataError(
            f"record {record.row} has an input, but instruct.template has no field for it",
            do="Add {input} to the template.",
        )
    return [Piece(fill(template, values), answer=False), Piece(values["output"], answer=True)]


def prompt(record: InstructRecord, settings: Instruct) -> list[Piece]:
    """The prompt: everything before the last answer."""
    return pieces(record, settings)[:-1]


def markers(settings: Instruct) -> tuple[str, ...]:
    """The beginnings of a prompt's lines. An answer with such a line does not stop, but continues with another prompt."""
    if settings.style == "chat" and not settings.template:
        return "System:", "User:", "Assistant:"
    literal = "\n".join(FIELD.sub("\n", template) for template in _templates(settings))
    lines = (line.strip() for line in literal.splitlines())
    return tuple(dict.fromkeys(line for line in lines if len(line) >= _TELLING))


def question(record: InstructRecord) -> str:
    """The question without a style. Records with the same question belong in the same split."""
    system, exchanges = record.conversation()
    turns = [system, *(turn for exchange in exchanges for turn in exchange)]
    return "\n".join(turn for turn in turns[:-1] if turn)


def answer(record: InstructRecord) -> str:
    """The last answer, the reference for a model's answer."""
    return record.conversation()[1][-1][1]


def fill(template: str, values: dict[str, str]) -> str:
    """Replace the fields of a template by their values. Fields inside a value are not replaced."""
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
    """The style as a Go template, in which ollama replaces .Prompt by the question."""
    if settings.style == "chat" and not settings.template:
        return _OLLAMA_CHAT
    literal = _templates(settings)[1].replace("{input}", "").split("{instruction}")
    return "{{ .Prompt }}".join(part.replace("{{", '{{ "{{" }}') for part in literal)


def as_messages(record: InstructRecord, settings: Instruct) -> list[dict[str, str]] | None:
    """A record up to its last answer as messages; none if the style's prompt has more than a question."""
    if isinstance(record, Instruction) and record.input and (settings.style != "chat" or settings.template):
        return None
    system, exchanges = record.conversation()
    said = [{"role": "system", "content": system}] if system else []
    for user, assistant in exchanges:
        said += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return said[:-1]


def _templates(settings: Instruct) -> tuple[str, str]:
    """The templates with and without an input."""
    if not settings.template:
        return TEMPLATES[settings.style]
    named, known = FIELD.findall(settings.template), " and ".join(f"{{{name}}}" for name in FIELDS)
    unknown = [f"{{{name}}}" for name in named if name not in FIELDS]
    if unknown:
        raise RecipeError("instruct.template has an unknown field", got=", ".join(unknown), known=known)
    if "instruction" not in named:
        raise RecipeError("instruct.template has no {instruction}", got=repr(settings.template[:60]), known=known)
    return settings.template, settings.template


def _single(record: InstructRecord, settings: Instruct) -> dict[str, str]:
    """Instruction, input and output of a record, or of messages with a single question and answer."""
    if isinstance(record, Instruction):
        return {"instruction": record.instruction, "input": record.input, "output": record.output}
    system, exchanges = record.conversation()
    if system or len(exchanges) > 1:
        held = "a system message" if system else f"{len(exchanges)} questions"
        style = "a template" if settings.template else f"style {settings.style}"
        raise DataError(
            f"record {record.row} has {held}; {style} takes one question and one answer",
            do="Use --set instruct.style=chat without a template.",
        )
    [(user, assistant)] = exchanges
    return {"instruction": user, "input": "", "output": assistant}


def _chat(system: str, exchanges: list[tuple[str, str]]) -> list[Piece]:
    """One line per turn. An answer begins with a space, so that its first word is tokenized as in running text.

    An answer that other programs send back already has that space, and gets no second one.
    """
    found, before = [], f"System: {system}\n" if system else ""
    for user, assistant in exchanges:
        own = assistant if assistant.startswith(" ") else f" {assistant}"
        found += [Piece(f"{before}User: {user}\nAssistant:", answer=False), Piece(own, answer=True)]
        before = "\n"
    return found

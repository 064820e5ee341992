"""The command ``generate``: a text continued by any language model, or the target of a source, shown as it comes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from finetune.checkpoints.sources import locate_weights, resolve_auto
from finetune.console import warn
from finetune.errors import RecipeError, WeightsError
from finetune.files import read_json
from finetune.models.compiled import check_compiled, compile_step
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.models.sampling import Decoding
from finetune.models.text_stream import StopStrings, TextStream
from finetune.tasks.seq2seq.examples import writing_room
from finetune.tasks.seq2seq.export import SEQ2SEQ, SourceUse
from finetune.tasks.seq2seq.job import decoding
from finetune.tokenizer import Tokenizer
from finetune.training.precision import device_type

NEW_TOKENS = 60  # of a continuation


def continue_text(
    name: str,
    prompt: str,
    max_new_tokens: int | None,
    stop: Sequence[str],
    write: Callable[[str], None],
    compiled: bool = False,
    **options: Any,
) -> None:
    """Write the prompt and its continuation: one sample a token at a time, several of them one after the other.

    Of a seq2seq run the prompt is a source, and its target alone is written, by the run's own way of decoding where no
    option says another. stop: strings that end a text and are not shown. compiled: in bf16, as ``GPT.generate`` says.
    options: the fields of ``Decoding``; what is none is left to the command: a temperature of 0.8, and the 50 likeliest
    tokens where nothing else says which to draw from. Raises WeightsError where `name` is a classifier,
    RecipeError where an option is out of range.
    """
    import torch

    found = locate_weights(resolve_auto(name), fetch=True)
    file = found.directory / SEQ2SEQ
    use = SourceUse.from_json(read_json(file), file) if file.is_file() else None
    decoding = Decoding(**_of_targets(options, use) if use else _with_defaults(options))
    loaded = found.load()
    model, tokenizer, device = loaded.model, loaded.tokenizer, "cpu" if compiled else device_type()
    if isinstance(model, EncoderDecoder) and not use:
        raise WeightsError(f"{name}: an encoder-decoder without its {SEQ2SEQ}", do="Export the run again.")
    if not isinstance(model, GPT | EncoderDecoder):
        raise WeightsError(f"{name}: a classifier continues no text", known="language models, for example gpt2")
    if compiled:  # what keeps it from being so is said before any text
        model = model.to(torch.bfloat16)
        check_compiled(model, decoding.beams * decoding.samples)
        compile_step()
    new = max_new_tokens or (use.max_new_tokens if use else NEW_TOKENS)
    notes: list[str] = []  # said at the end, so that they do not stand amid the text
    if use:
        ids, generate = _target_of(model.to(device), tokenizer, prompt, use, new, notes.append)
        shown = ""
    else:
        ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(prompt)]], device=device)
        generate, shown = model.to(device).generate, prompt
    settings = vars(decoding) | {
        "end": tokenizer.end_of_text,
        "note": notes.append,
        "stop": StopStrings(tokenizer, stop) if stop else None,
    }
    if compiled:
        settings["compiled"] = True
    if decoding.samples == decoding.beams == 1:
        stream = TextStream(tokenizer, stop)
        write(shown)
        generate(ids, new, on_tokens=lambda tokens: write(stream.push(int(tokens))), **settings)
        write(stream.close() + "\n")
    else:
        rows = generate(ids, new, **settings)[:, ids.shape[1] :].tolist()
        for number, row in enumerate(rows, 1):
            stream = TextStream(tokenizer, stop)
            text = "".join(stream.push(token) for token in row) + stream.close()
            head = f"--- {number} of {len(rows)} ---\n" if len(rows) > 1 else ""
            write(f"{head}{shown}{text}\n")
    for note in notes:
        warn(note)


def _target_of(
    model: GPT | EncoderDecoder,
    tokenizer: Tokenizer,
    source: str,
    use: SourceUse,
    new: int,
    note: Callable[[str], None],
) -> tuple:
    """What the target begins with, (1, T), and the function that goes on from there. note: told of a cut source."""
    import torch

    device = model.token_embedding.weight.device
    ids, room = tokenizer.encode(source), writing_room(use.family, use.max_length, model.config.context, new)
    if len(ids) > room:
        note(f"the source has {len(ids):,} tokens: its first {room:,} were read")
        ids = ids[:room]
    if not ids:
        raise RecipeError("the source is empty", do="Give a text.")
    if isinstance(model, GPT):
        return torch.tensor([[*ids, tokenizer.end_of_text]], device=device), model.generate
    start = torch.tensor([[tokenizer.end_of_text]], device=device)
    return start, partial(model.generate, torch.tensor([ids], device=device))


def _of_targets(options: dict, use: SourceUse) -> dict:
    """The run's beams, or greedy, where no option asks for another way."""
    given = {name: value for name, value in options.items() if value is not None}
    if given.keys() & {"temperature", "top_k", "top_p", "min_p"}:
        return given
    found = decoding(given.get("beams", use.beams), use.length_penalty) | given
    return found | ({"temperature": 1.0} if found.get("samples", 1) > found.get("beams", 1) else {})


def _with_defaults(options: dict) -> dict:
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("beams", 1) > 1:
        return given
    chosen = {"temperature": 0.8} | given
    if not {"top_k", "top_p", "min_p"} & given.keys():
        chosen["top_k"] = 50
    elif given.get("temperature") == 0:
        raise RecipeError(
            "temperature 0 takes the likeliest token and does not sample",
            do="Leave out --top-k, --top-p and --min-p, or give a temperature.",
        )
    return chosen

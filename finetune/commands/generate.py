"""The command ``generate``: continue a text with a language model, or write the target of a source, streamed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune.checkpoints.sources import locate_weights, resolve_auto
from finetune.console import warn
from finetune.errors import RecipeError, WeightsError
from finetune.files import read_json
from finetune.models.compiled import check_compiled, compile_step
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.heads import Classifier
from finetune.models.packed import FEW_BITS
from finetune.models.sampling import Decoding
from finetune.models.text_stream import StopStrings, TextStream
from finetune.models.transformer import LanguageModel
from finetune.tasks.seq2seq.examples import writing_room
from finetune.tasks.seq2seq.export import SEQ2SEQ, SourceUse
from finetune.tasks.seq2seq.job import decoding
from finetune.tokenizer import Tokenizer
from finetune.training.precision import device_type

NEW_TOKENS = 60  # of a continuation
DTYPES = {"fp32": 32, "bf16": 16, "int8": 8, "int4": 4}  # of the weights, and their bits


def continue_text(
    name: str,
    prompt: str,
    max_new_tokens: int | None,
    stop: Sequence[str],
    write: Callable[[str], None],
    compiled: bool | None = None,
    dtype: str | None = None,
    **options: Any,
) -> None:
    """Write the prompt and its continuation: a single sample is streamed, several are written one after the other.

    For a seq2seq run the prompt is the source and only the target is written, decoded by the run's settings unless an
    option overrides them. stop: strings that end a text and are not shown. compiled: see ``GPT.generate``.
    dtype: one of DTYPES; None: fp32, or bf16 if compiled.
    options: the fields of ``Decoding``; None means the command's default: temperature 0.8, and top-k 50 unless another
    filter is given. Raises WeightsError if `name` is a classifier,
    RecipeError if an option is out of range.
    """
    import torch

    if dtype not in (None, *DTYPES):
        raise RecipeError("unknown --dtype", got=str(dtype), known=", ".join(DTYPES))
    dtype = dtype or ("bf16" if compiled else "fp32")
    found = locate_weights(resolve_auto(name), fetch=True)
    file = found.directory / SEQ2SEQ
    use = SourceUse.from_json(read_json(file), file) if file.is_file() else None
    given = {name: value for name, value in options.items() if value is not None}
    decoding = _of_targets(given, use) if use else _with_defaults(given)
    loaded = found.load()
    model, tokenizer, device = loaded.model, loaded.tokenizer, "cpu" if compiled or dtype in FEW_BITS else device_type()
    if isinstance(model, EncoderDecoder) and not use:
        raise WeightsError(f"{name}: an encoder-decoder without its {SEQ2SEQ}", do="Export the run again.")
    if not isinstance(model, LanguageModel | EncoderDecoder):
        kind = "a classifier" if isinstance(model, Classifier) else model.kind
        raise WeightsError(f"{name}: {kind} cannot generate text", known="language models, for example gpt2")
    if not use and speaks(found.directory):
        warn(
            f"{name} was trained with a prompt format, which generate does not apply: it continues the text as given. "
            "To apply the format: finetune chat RUN"
        )
    if dtype in FEW_BITS and not isinstance(model, LanguageModel):
        raise RecipeError(f"{dtype} weights are for language models", got=model.kind, do=f"Leave out --dtype {dtype}.")
    if dtype == "bf16":
        model = model.to(torch.bfloat16)
    if compiled:  # report why it cannot be compiled before any text is written
        check_compiled(model)
        compile_step(DTYPES[dtype])
    new = max_new_tokens or (use.max_new_tokens if use else NEW_TOKENS)
    notes: list[str] = []  # printed at the end, so that they do not interrupt the text
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
    if compiled is not None and isinstance(model, LanguageModel):
        settings["compiled"] = compiled
    if dtype in FEW_BITS:
        settings["dtype"] = dtype
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


def speaks(directory: Path) -> bool:
    """Whether a checkpoint was trained on a prompt format, as instruct runs are."""
    file = directory / "tokenizer_config.json"
    settings = read_json(file) if file.is_file() else {}
    return isinstance(settings, dict) and "chat_template" in settings


def _target_of(
    model: LanguageModel | EncoderDecoder,
    tokenizer: Tokenizer,
    source: str,
    use: SourceUse,
    new: int,
    note: Callable[[str], None],
) -> tuple:
    """The first ids of the target, (1, T), and the function that continues them. note: called if the source is cut."""
    import torch

    device = model.token_embedding.weight.device
    ids, room = tokenizer.encode(source), writing_room(use.family, use.max_length, model.config.context, new)
    if len(ids) > room:
        note(f"the source has {len(ids):,} tokens: only the first {room:,} are read")
        ids = ids[:room]
    if not ids:
        raise RecipeError("the source is empty", do="Give a text.")
    if isinstance(model, LanguageModel):
        return torch.tensor([[*ids, tokenizer.end_of_text]], device=device), model.generate
    start = torch.tensor([[tokenizer.end_of_text]], device=device)
    return start, partial(model.generate, torch.tensor([ids], device=device))


def _of_targets(given: dict[str, Any], use: SourceUse) -> Decoding:
    """The run's beam search, or greedy decoding, unless an option asks for another method."""
    if given.keys() & {"temperature", "top_k", "top_p", "min_p"}:
        return Decoding(**given)
    usual = decoding(given.get("beams", use.beams), use.length_penalty)
    warm: dict[str, Any] = {"temperature": 1.0} if given.get("samples", 1) > usual.beams else {}
    return replace(usual, **warm, **given)


def _with_defaults(given: dict[str, Any]) -> Decoding:
    if given.get("beams", 1) > 1:
        return Decoding(**given)
    chosen = {"temperature": 0.8} | given
    if not {"top_k", "top_p", "min_p"} & given.keys():
        chosen["top_k"] = 50
    elif given.get("temperature") == 0:
        raise RecipeError(
            "temperature 0 is greedy decoding: there is no sampling",
            do="Leave out --top-k, --top-p and --min-p, or give a temperature.",
        )
    return Decoding(**chosen)

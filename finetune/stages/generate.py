"""The command ``generate``: a text continued by any language model, shown as it comes."""

from collections.abc import Callable, Sequence

from finetune.checkpoints.sources import load
from finetune.console import warn
from finetune.errors import RecipeError, WeightsError
from finetune.models.gpt import GPT
from finetune.models.sampling import Decoding
from finetune.models.text_stream import StopStrings, TextStream
from finetune.training.precision import device_type


def continue_text(name: str, prompt: str, max_new_tokens: int, stop: Sequence[str], write: Callable[[str], None],
                  **options) -> None:
    """Write the prompt and its continuation: one sample a token at a time, several of them one after the other.

    stop: strings that end a text and are not shown. options: the fields of ``Decoding``; what is none is left to the
    command: a temperature of 0.8, and the 50 likeliest tokens where nothing else says which to draw from.
    Raises WeightsError where `name` is a classifier, RecipeError where an option is out of range.
    """
    import torch
    decoding = Decoding(**_with_defaults(options))
    model, tokenizer = load(name)
    if not isinstance(model, GPT):
        raise WeightsError(f"{name}: a classifier continues no text", known="language models, for example gpt2")
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(prompt)]], device=device_type())
    model.to(ids.device)
    notes: list[str] = []  # said at the end, so that they do not stand amid the text
    settings = vars(decoding) | {"end": tokenizer.end_of_text, "note": notes.append,
                                 "stop": StopStrings(tokenizer, stop) if stop else None}
    if decoding.samples == decoding.beams == 1:
        stream = TextStream(tokenizer, stop)
        write(prompt)
        model.generate(ids, max_new_tokens, on_tokens=lambda tokens: write(stream.push(int(tokens))), **settings)
        write(stream.close() + "\n")
    else:
        rows = model.generate(ids, max_new_tokens, **settings)[:, ids.shape[1]:].tolist()
        for number, row in enumerate(rows, 1):
            stream = TextStream(tokenizer, stop)
            text = "".join(stream.push(token) for token in row) + stream.close()
            head = f"--- {number} of {len(rows)} ---\n" if len(rows) > 1 else ""
            write(f"{head}{prompt}{text}\n")
    for note in notes:
        warn(note)


def _with_defaults(options: dict) -> dict:
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("beams", 1) > 1:
        return given
    chosen = {"temperature": 0.8} | given
    if not {"top_k", "top_p", "min_p"} & given.keys():
        chosen["top_k"] = 50
    elif given.get("temperature") == 0:
        raise RecipeError("temperature 0 takes the likeliest token and draws nothing",
                          do="Leave out --top-k, --top-p and --min-p, or give a temperature.")
    return chosen

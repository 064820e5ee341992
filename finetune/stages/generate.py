"""The command ``generate``: a text continued by any language model."""

from finetune.checkpoints.sources import load
from finetune.errors import WeightsError
from finetune.models.generate import generate
from finetune.models.gpt import GPT


def continue_text(name: str, prompt: str, max_new_tokens: int, temperature: float, top_k: int | None,
                  top_p: float | None, seed: int) -> str:
    """The prompt and its continuation. Raises WeightsError where `name` is a classifier."""
    import torch
    model, tokenizer = load(name)
    if not isinstance(model, GPT):
        raise WeightsError(f"{name}: a classifier continues no text", known="language models, for example gpt2")
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(prompt)]])
    found = generate(model, ids, max_new_tokens, temperature, top_k, top_p, end=tokenizer.end_of_text, seed=seed)
    return tokenizer.decode_bytes(found[0].tolist()).decode("utf-8", "replace")

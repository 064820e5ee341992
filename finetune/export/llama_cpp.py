"""llama.cpp, through xllamacpp: compare its answers to the prompts of a run with the model's."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from finetune.export.exportable import Exportable
from finetune.models.gpt import GPT

NEW_TOKENS, PROMPTS = 32, 25
PLAIN_PROMPTS = ("Once upon a time", "The", "He said that")  # for a model without conversations


def has_llama_cpp() -> bool:
    """Whether xllamacpp is installed."""
    return find_spec("xllamacpp") is not None


def compare_answers(path: Path, thing: Exportable, model: GPT) -> tuple[int, int]:
    """On how many prompts llama.cpp's greedy answer equals the model's, and the number of prompts.

    Prompts are passed as messages through the file's chat template, so that it is tested, too.
    """
    tokenizer, context = thing.tokenizer, model.config.context
    prompts = [(said.prompt, said.messages) for said in thing.conversations[:PROMPTS]]
    asked: list[tuple[list[int], Any]] = prompts or [(tokenizer.encode(text), text) for text in PLAIN_PROMPTS]
    fitting = [(ids, said) for ids, said in asked if len(ids) + NEW_TOKENS <= context]
    server, same = open_server(path, context), 0
    for ids, said in fitting:
        out = model.generate(torch.tensor([ids]), NEW_TOKENS, end=tokenizer.end_of_text, temperature=0.0)[
            0, len(ids) :
        ].tolist()
        ours = tokenizer.decode([token for token in out if token != tokenizer.end_of_text])
        same += written(server, said) == ours
    return same, len(fitting)


def open_server(path: Path, context: int) -> Any:
    """A llama.cpp server with the model, with one slot."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_predict = context, 1, NEW_TOKENS
    params.warmup, params.use_jinja, params.verbosity = False, True, -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # by default it rounds to f16
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    return xllamacpp.Server(params)


def written(server: Any, said: Any) -> str:
    """llama.cpp's greedy answer to messages, or its continuation of a text."""
    options = {"temperature": 0.0, "n_predict": NEW_TOKENS, "max_tokens": NEW_TOKENS, "cache_prompt": False}
    if isinstance(said, str):
        return str(server.handle_completions({"prompt": said, **options})["content"])
    answer = server.handle_chat_completions({"messages": said, **options})
    return str(answer["choices"][0]["message"]["content"])

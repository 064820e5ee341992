"""The commands that use a trained model: predict, evaluate, generate, embed and chat."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import EncodingOption, RunArgument
from finetune.cli.processes import process_count, start_processes
from finetune.console import say
from finetune.errors import Interrupted, RecipeError
from finetune.training import ranks


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT ...]")] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--csv", metavar="IN.csv", help="A table to predict: CSV, TSV, JSON, JSONL, Parquet or Excel; -: stdin."
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COL", help="The table's text column; default: as in training.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.csv", help="Output table: CSV, TSV, JSONL or Parquet.")
    ] = None,
    encoding: EncodingOption = None,
    no_header: Annotated[bool, typer.Option("--no-header", help="The table has no header row.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace columns of the table that have the names of added ones.")
    ] = False,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="An adapter in PEFT's layout, for the base weights BUNDLE; repeatable."),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes that share a table's rows.")] = None,
) -> None:
    """Predict the label of each text (-: each line of stdin) or the names in it, with probabilities; or predict a table."""
    if bool(texts) == bool(table) or bool(table) != bool(out):
        raise RecipeError("predict needs either texts, or --csv IN with --out OUT")
    for option, value in (
        ("--text", text),
        ("--encoding", encoding),
        ("--no-header", no_header),
        ("--overwrite", overwrite),
        ("--processes", processes),
    ):
        if value and not table:
            raise RecipeError(f"{option} needs --csv", got=repr(value), do="Leave it out, or give --csv IN.")
    if adapter and len(adapter) > 1 and table:
        raise RecipeError(
            "a table can be predicted with only one adapter",
            got=f"{len(adapter)}",
            do="Run the command once for each adapter.",
        )
    from finetune.tables.standard_input import table_name
    from finetune.tables.writers import ENDINGS

    if out and (out.is_dir() or out.suffix.lower() not in ENDINGS):
        raise RecipeError(
            f"{out}: not the name of a table file", known=", ".join(ENDINGS), do="For example: --out predictions.csv"
        )
    for given in texts or []:
        _refuse_file(given)
    if texts == ["-"]:
        texts = [line for line in sys.stdin.read().splitlines() if line.strip()]
        if not texts:
            raise RecipeError("standard input is empty", do="Give one text per line.")

    adapters = list(map(str, adapter or ()))
    if not table:
        _say_predictions(str(bundle), adapters, "predict_texts", texts or [])
        return
    count = process_count(processes)
    with table_name(table) as name:
        work: dict[str, Any] = {
            "bundle": str(bundle),
            "adapters": adapters,
            "table": [name, str(out)],
            "read": [text, encoding, not no_header, overwrite],
        }
        if count == ranks.processes():
            predict_request(**work)
            return
        start_processes(count, "predict", work)


def predict_request(bundle: str, adapters: list[str], table: list[str], read: list) -> None:
    """Fill a table with all processes that were started. read: what ``predict_table`` takes after source and target."""
    from finetune.machine import keep_freed_memory

    keep_freed_memory()
    _say_predictions(bundle, adapters, "predict_table", *map(Path, table), *read)


def _say_predictions(bundle: str, adapters: list[str], function: str, *given: Any) -> None:
    """Print the lines of a function of the task's ``predict``."""
    from finetune.commands.bundle import task_module

    places = list(map(Path, adapters))
    task, directory = task_module(Path(bundle), "predict", places)
    for line in getattr(task, function)(directory, *given, **({"adapters": places} if places else {})):
        say(line)


def _refuse_file(text: str) -> None:
    """Raise RecipeError for the name of a file where a text is expected."""
    from finetune.tables.tables import ENDINGS

    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):  # not a file name
        return
    if is_file or (len(text.split()) == 1 and text.lower().endswith(ENDINGS)):
        raise RecipeError(
            f"{text}: the name of a file, not a text",
            do=f"To predict its rows: --csv {text} --out OUT.csv. To predict these words, give them on standard input: -.",
        )


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN")],
    data: Annotated[str, typer.Argument(metavar="DATA.csv", help="A labelled table; -: standard input.")],
    text: Annotated[str | None, typer.Option(metavar="COL", help="The text column; default: as in training.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column; default: as in training.")] = None,
    encoding: EncodingOption = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes that share the rows.")] = None,
) -> None:
    """Score a labelled file: the report's metrics, with 95 % intervals."""
    from finetune.tables.standard_input import table_name

    count = process_count(processes)
    with table_name(data) as name:
        given = [str(bundle), name, text or "", label or "", encoding or ""]
        if count == ranks.processes():
            evaluate_request(given)
            return
        start_processes(count, "evaluate", {"given": given})


def evaluate_request(given: list[str]) -> None:
    """Score a file with all processes that were started. given: to ``score_file``."""
    from finetune.commands.bundle import score_file

    ranks.call_others("score", *given)
    for line in score_file(*given):
        say(line)


def generate(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT|RUN")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Maximum new tokens; default: 60, or the seq2seq run's setting."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; 0: greedy. Default: 0.8.")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Sample from the k most likely tokens; 50 without --top-p or --min-p.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus (top-p) sampling.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Minimum probability, relative to the most likely token.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: fewer repeated tokens.")] = 1.0,
    no_repeat_ngram: Annotated[int | None, typer.Option(help="Never repeat an n-gram of this length.")] = None,
    beams: Annotated[
        int | None, typer.Option(help="Number of beams; default: 1, or the seq2seq run's setting.")
    ] = None,
    beam_groups: Annotated[
        int | None, typer.Option(help="Number of groups of beams, which choose different tokens; with --samples.")
    ] = None,
    diversity_penalty: Annotated[
        float | None,
        typer.Option(help="Penalty for a token that an earlier group has chosen at the same step. Default: 0.5."),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(help="Above 0 favours longer texts in beam search; default: 1, or the seq2seq run's setting."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Number of texts to generate.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Seed for sampling.")] = 0,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="On a CPU, compile the generation step with a C++ compiler; --compile: with bf16 weights. "
            "Default: for long texts.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Weights in fp32, bf16, int8 or int4; int8 and int4 run on a CPU, compiled if there is a C++ compiler."
        ),
    ] = None,
) -> None:
    """Continue a text, streamed as it is generated; with a seq2seq run, write the target for a source."""
    from finetune.commands.generate import continue_text

    continue_text(
        checkpoint,
        prompt,
        max_new_tokens,
        stop or [],
        lambda text: say(text, end=""),
        compiled,
        dtype,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        beams=beams,
        beam_groups=beam_groups,
        diversity_penalty=diversity_penalty,
        samples=samples,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        seed=seed,
        length_penalty=length_penalty,
    )


def embed(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT|RUN")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A table with a text column; -: standard input.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one vector per text, as .npy or .parquet.")
    ] = None,
    near: Annotated[
        str | None,
        typer.Option("--nearest", "--near", metavar="TEXT", help="Print the texts that are nearest to this one."),
    ] = None,
    neighbours: Annotated[int, typer.Option(help="Number of nearest texts to print.")] = 5,
    pooling: Annotated[
        str, typer.Option(metavar="mean|last", help="The mean of all tokens' states, or the last token's state.")
    ] = "mean",
    text: Annotated[str | None, typer.Option(metavar="COL", help="The text column; several: A,B.")] = None,
    encoding: EncodingOption = None,
) -> None:
    """Turn texts into vectors, or find the texts that are nearest to one."""
    from finetune.commands.embed import embed as embed_table
    from finetune.tables.standard_input import table_name

    with table_name(data) as name:
        for line in embed_table(checkpoint, name, out, text, encoding, pooling, near, neighbours):
            say(line)


def chat(
    run_directory: RunArgument,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum new tokens; default: the run's setting.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0: greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus (top-p) sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed for sampling.")] = 0,
) -> None:
    """Chat with an instruct run, in its prompt style."""
    from finetune.tasks.instruct.chat import HELP, converse, open_conversation

    conversation = open_conversation(run_directory, max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    say(HELP if conversation.remembers() else f"this run's prompt style keeps no history; {HELP}", error=True)
    try:
        converse(conversation, _typed_lines(), lambda text: say(text, end=""))
    except KeyboardInterrupt as stop:
        raise Interrupted("the conversation is over") from stop


def _typed_lines() -> Iterator[str]:
    """Lines from the terminal or a pipe, until end of file."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return


def serve(
    model: Annotated[str, typer.Argument(metavar="RUN|BUNDLE", help="A run, a bundle, or weights such as gpt2.")],
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; with any but a loopback address, other machines can reach the server."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any free port.")] = 8000,
) -> None:
    """Serve a model on this machine: a page to try it, and a REST API that OpenAI's clients can use."""
    from finetune.export.extras import require

    require("serve", "fastapi", "uvicorn")
    from finetune.serve.server import serve as serve_model

    serve_model(model, host, port)

"""The commands that use a trained model: predict, evaluate, generate and chat."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import EncodingOption, RunArgument
from finetune.console import say
from finetune.errors import Interrupted, RecipeError


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT ...]")] = None,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="IN.csv", help="A table to predict: CSV, TSV, JSON, JSONL or Parquet."),
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="COL", help="Its text column; default: as in training.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="OUT.csv", help="Output table: CSV or TSV.")] = None,
    encoding: EncodingOption = None,
    no_header: Annotated[bool, typer.Option("--no-header", help="The table has no header row.")] = False,
) -> None:
    """Print a label and its probability for each text, or fill a table."""
    if bool(texts) == bool(table) or bool(table) != bool(out):
        raise RecipeError("predict takes texts, or --csv IN with --out OUT")
    for option, value in (("--text", text), ("--encoding", encoding), ("--no-header", no_header)):
        if value and not table:
            raise RecipeError(f"{option} needs --csv", got=repr(value), do="Leave it out, or give --csv IN.")
    if out and (out.is_dir() or out.suffix.lower() not in (".csv", ".tsv")):
        raise RecipeError(f"{out}: not a table name", known=".csv, .tsv", do="For example: --out predictions.csv")
    from finetune.tasks.classify.bundle import Bundle, predict_table

    ready = Bundle.load(bundle)
    if table:
        assert out is not None, "--csv needs --out"
        counts = predict_table(ready, table, out, text, encoding, not no_header)
        say(
            f"{out}: {counts['rows']:,} rows, text {counts['text_column']!r}"
            + (f", {counts['without_text']:,} of them without text" if counts["without_text"] else "")
        )
        return
    for label, sure in ready.shown(texts or []):
        say(f"{' '.join(label.split())}\t{sure}")


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN")],
    data: Annotated[Path, typer.Argument(metavar="DATA.csv")],
    text: Annotated[str | None, typer.Option(metavar="COL", help="The text column; default: as in training.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column; default: as in training.")] = None,
    encoding: EncodingOption = None,
) -> None:
    """Score a labelled file: the report's metrics, with 95 % intervals."""
    from finetune.tasks.classify.score_file import score_file

    for line in score_file(bundle, data, text, label, encoding):
        say(line)


def generate(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT|RUN")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="New tokens; default: 60, or a seq2seq run's own.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; 0: greedy. Default: 0.8.")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Sample from the k most likely tokens; 50 without --top-p or --min-p.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus (top-p) sampling.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Minimum probability, relative to the most likely token.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: fewer repeated tokens.")] = 1.0,
    no_repeat_ngram: Annotated[int | None, typer.Option(help="Never repeat an n-gram of this length.")] = None,
    beams: Annotated[int | None, typer.Option(help="Beams; default: 1, or a seq2seq run's own.")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="Above 0 favours long beams; default: 1, or a seq2seq run's.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Continuations.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Seed for sampling.")] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Faster on a CPU: bf16 weights, and a step compiled with a C++ compiler.")
    ] = False,
) -> None:
    """Continue a text, streamed as it is generated; a seq2seq run writes the target of a source."""
    from finetune.commands.generate import continue_text

    continue_text(
        checkpoint,
        prompt,
        max_new_tokens,
        stop or [],
        lambda text: say(text, end=""),
        compiled,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        beams=beams,
        samples=samples,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        seed=seed,
        length_penalty=length_penalty,
    )


def chat(
    run_directory: RunArgument,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="New tokens; default: the run's.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0: greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus (top-p) sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed for sampling.")] = 0,
) -> None:
    """Chat with an instruct run, in its prompt style."""
    from finetune.tasks.instruct.chat import HELP, converse, open_conversation

    conversation = open_conversation(run_directory, max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    say(HELP if conversation.remembers() else f"this run's style has no history; {HELP}", error=True)
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

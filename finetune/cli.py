"""The command line. Heavy imports are inside the commands, so that ``finetune --help`` answers at once."""

import errno
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from finetune.console import say, typed_lines
from finetune.errors import FinetuneError, Interrupted, RecipeError
from finetune.export import FORMATS

if TYPE_CHECKING:
    from finetune.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Fine-tune GPT-2 on your own text, on a CPU or a GPU.",
)
weights_app = typer.Typer(no_args_is_help=True, help="Pretrained weights: list, download, check.")
app.add_typer(weights_app, name="weights")
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train a tokenizer.")
app.add_typer(tokenizer_app, name="tokenizer")
data_app = typer.Typer(no_args_is_help=True, help="Check a labelled table before training.")
app.add_typer(data_app, name="data")

RUNS = Path("runs")
INTERRUPTED = 130
# click's, or that of the copy of click in newer releases of typer; it shows itself as what is below it does
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting.")]
NameOption = Annotated[str | None, typer.Option(help="The run's name under runs/.")]
FromOption = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Rerun this stage and all later ones.")]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")]
ProcessesOption = Annotated[int, typer.Option(min=1, help="Number of training processes (torchrun).")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Rerun every stage; reuse nothing from other runs.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan with estimated time and memory; keep nothing.")
]
EncodingOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Encoding of input tables that are not UTF-8.")
]
IgnoreOption = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="CODE", help="Mute a finding, for example FT012; repeatable.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]


@app.command()
def run(
    target: Annotated[str, typer.Argument(metavar="PIPELINE|RECIPE.toml|recipe.json")],
    settings: SetOption = None,
    name: NameOption = None,
    first: FromOption = None,
    until: UntilOption = None,
    processes: ProcessesOption = 1,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
) -> None:
    """Run a pipeline; the same command resumes a stopped run."""
    from finetune.pipeline import make_recipe

    _run(make_recipe(target, settings or []), name, first, until, processes, dry_run, fresh)


@app.command()
def classify(
    data: Annotated[str, typer.Argument(metavar="DATA", help="CSV, TSV, JSON, JSONL or Parquet; hf:NAME.")],
    text: Annotated[str | None, typer.Option(metavar="COL", help="Text column; several: A,B.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column.")] = None,
    validation: Annotated[str | None, typer.Option(metavar="V.csv", help="Validation table.")] = None,
    test: Annotated[str | None, typer.Option(metavar="T.csv", help="Test table.")] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COL", help="Group column: rows of a group stay in one split.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="COL", help="Split column: train, val or test.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Pretrained weights to start from.")] = None,
    method: Annotated[str | None, typer.Option(help="auto, full, last-blocks, head or lora.")] = None,
    encoding: EncodingOption = None,
    ignore: IgnoreOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    first: FromOption = None,
    until: UntilOption = None,
    processes: ProcessesOption = 1,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
) -> None:
    """Fine-tune a classifier on your own table."""
    from finetune.pipeline import classify_request, file_run_name

    request = classify_request(
        data,
        text=text,
        label=label,
        group=group,
        split=split,
        validation=validation,
        test=test,
        weights=weights,
        method=method,
        encoding=encoding,
        ignore=ignore or [],
        overrides=settings or [],
    )
    _run(request, file_run_name(data) if name is None else name, first, until, processes, dry_run, fresh)


@app.command("compare-architectures")
def compare_architectures(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter trainings; takes minutes.")] = False,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="A labelled table; default: a bundled one.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COL", help="Text column; several: A,B.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column.")] = None,
    settings: SetOption = None,
    name: NameOption = None,
) -> None:
    """Compare encoder-only, decoder-only and encoder-decoder of equal size."""
    from finetune.comparisons.architectures.trainings import QUICK
    from finetune.config import merge
    from finetune.pipeline import make_recipe

    chosen = {"columns": {"text": text, "label": label}} | ({"data": data} if data else {})
    request = make_recipe("architectures", settings or [], merge(chosen, QUICK if quick else {}))
    _run(request, name, None, None, 1, False, False)


@app.command()
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
    for label, p in zip(*ready.predict(texts or []), strict=True):
        say(f"{' '.join(label.split())}\t{p[ready.labels.index(label)]:.4f}")


@app.command()
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


@app.command()
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


@app.command()
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
        converse(conversation, typed_lines(), lambda text: say(text, end=""))
    except KeyboardInterrupt as stop:
        raise Interrupted("the conversation is over") from stop


@app.command()
def report(run_directory: RunArgument) -> None:
    """Rebuild a run's report from its files."""
    from finetune.run import Run
    from finetune.stages.report import rebuild

    say(str(rebuild(Run.at(run_directory))))


@app.command()
def export(
    run_directory: RunArgument,
    format: Annotated[str, typer.Option(help=f"What to write: {', '.join(FORMATS)}.")] = "hf",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output directory; default: inside the run.")] = None,
) -> None:
    """Export a run's weights for other libraries, and check that these give the same logits."""
    from finetune.commands.export import export_again

    say(str(export_again(run_directory, out, format)))


@app.command()
def ls() -> None:
    """List the pipelines."""
    from finetune.pipeline import describe_pipelines

    for name, line in describe_pipelines().items():
        say(f"{name:18} {line}")


@app.command()
def show(target: Annotated[str, typer.Argument(metavar="PIPELINE|RECIPE.toml")], settings: SetOption = None) -> None:
    """Print a full recipe as TOML, with a description of each key."""
    from finetune.pipeline import as_toml, make_recipe

    say(as_toml(make_recipe(target, settings or [])))


@app.command()
def cp(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE")],
    file: Annotated[Path, typer.Argument(metavar="FILE.toml")],
) -> None:
    """Copy a pipeline's recipe to a TOML file for editing."""
    from finetune.files import atomic_write
    from finetune.pipeline import as_toml, make_recipe

    if file.suffix != ".toml":
        raise RecipeError("a recipe file must end in .toml", got=str(file))
    if file.exists():
        raise RecipeError(f"{file}: already exists", do="Choose another name.")
    recipe = make_recipe(pipeline)
    with atomic_write(file) as stream:
        stream.write(as_toml(recipe))
    say(f"{file}: run it with  finetune run {file}")


@app.command()
def draw(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="architectures, positions, masks, attention, schedule, sampling, beams, or all."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output directory.")] = Path("pictures"),
    weights: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Weights to use; default: mini.")] = None,
    text: Annotated[str | None, typer.Option(help="Input text.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to draw large, from 0; default: the middle one.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE|RECIPE.toml|recipe.json", help="Recipe whose schedule is drawn; default: spam-classifier."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Top-k of the sampling picture.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Top-p of the sampling picture.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Min-p of the sampling picture.")] = None,
    beams: Annotated[int | None, typer.Option(help="Number of beams in the tree.")] = None,
) -> None:
    """Draw how it works, as PNG, SVG and one page: architectures, attention, masks, decoding."""
    from finetune.pictures.draw import Options
    from finetune.pictures.draw import draw as draw_pictures
    from finetune.pipeline import make_recipe

    options = Options(weights, text, layer, recipe, top_k, top_p, min_p, beams)
    say(str(draw_pictures(what, out, options, make_recipe(recipe or "spam-classifier").train)))


@app.command()
def doctor(
    run_directory: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Check this run's files.")] = None,
) -> None:
    """Check this machine, as a summary to paste into a bug report; or check the files of a run."""
    from finetune.commands.check_run import examine_run
    from finetune.commands.doctor import examine
    from finetune.commands.doctor import show as show_checks

    raise typer.Exit(show_checks(examine_run(run_directory) if run_directory else examine()))


@tokenizer_app.command("train")
def tokenizer_train(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Text files or folders.")],
    vocab_size: Annotated[int, typer.Option(min=1, help="Vocabulary size, special tokens included.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output directory.")] = Path("tokenizer"),
) -> None:
    """Train a byte-level BPE tokenizer on texts; writes vocab.json and merges.txt."""
    from finetune.commands.train_tokenizer import train_from_files

    say(train_from_files(files, vocab_size, out))


@data_app.command("check")
def data_check(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A table or a data set's name.")],
    text: Annotated[str | None, typer.Option(metavar="COL", help="Text column; several: A,B.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="The label column.")] = None,
    weights: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Weights whose tokenizer and context length apply.")
    ] = "mini",
    encoding: EncodingOption = None,
    ignore: IgnoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Read a labelled table as training would, and list its problems."""
    from finetune.tasks.classify.check import check_file, show

    show(check_file(data, text, label, weights, encoding, ignore or []), as_json)


@weights_app.command("ls")
def weights_ls() -> None:
    """List the known weights, and which are on this machine."""
    from finetune.commands.weights import list_weights

    for line in list_weights():
        say(line)


@weights_app.command("get")
def weights_get(name: str) -> None:
    """Download weights into the Hugging Face cache and check the sha256 of every file."""
    from finetune.checkpoints.sources import locate_weights, resolve_auto

    say(str(locate_weights(resolve_auto(name), fetch=True).directory))


@weights_app.command("verify")
def weights_verify(name: Annotated[str | None, typer.Argument()] = None) -> None:
    """Check the sha256 of the weights on this machine, the bundled ones included."""
    from finetune.commands.weights import verify

    for line in verify(name):
        say(line)


def _run(
    request: "Recipe",
    name: str | None,
    first: str | None,
    until: str | None,
    processes: int,
    dry_run: bool,
    fresh: bool,
) -> None:
    from finetune.execution import dry_run as show_plan
    from finetune.execution import execute, open_run
    from finetune.pipeline import load_pipeline, stage_names

    stages = load_pipeline(request.pipeline).stages
    stage_names(stages, first, until)
    if not request.data:
        command = (
            "finetune classify my.csv"
            if request.pipeline == "classify"
            else (f"finetune run {request.pipeline} --set data=my.tsv")
        )
        raise RecipeError("the recipe does not name any data", do=f"Give a file: {command}")
    if dry_run:
        show_plan(request, stages, processes)
        return
    opened, recipe = open_run(request, RUNS, name)
    execute(opened, recipe, stages, first=first, until=until, processes=processes, fresh=fresh)


def _refuse_undecodable(arguments: list[str]) -> None:
    """File names must be UTF-8: the run's files could not record other bytes."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise RecipeError(
                "the command contains bytes that are not UTF-8", got=repr(argument), do="Rename the file."
            )


def _interrupt(number: int, frame: FrameType | None) -> None:
    """On a first signal raise KeyboardInterrupt, which cleans up; on a second end the process at once.

    No file is then half-written under its own name, and the system lets go of the run's lock.
    """
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, lambda *_: os._exit(INTERRUPTED))
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; the exit status is 0, 2 (the user can fix it), 130 (interrupted, saved) or 1 (a bug)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in a shell's background job
            signal.signal(number, _interrupt)
    try:
        _refuse_undecodable(sys.argv)
        status = app(standalone_mode=False)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
    except UsageError as error:
        error.show()
        status = 2
    except FinetuneError as error:
        say(f"error: {error}", error=True)
        status = 2
    except Interrupted as stop:
        say(str(stop), error=True)
        status = INTERRUPTED
    except (typer.Abort, KeyboardInterrupt):
        say("interrupted; saved files are intact. Run the same command again.", error=True)
        status = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed the pipe
        sys.stderr.close()
        status = 0
    except OSError as error:
        if error.errno not in DISK:
            raise
        say(
            f"error: {error.filename or 'a file'}: {error.strerror}. Free some space, or choose another directory.",
            error=True,
        )
        status = 2
    sys.exit(status or 0)

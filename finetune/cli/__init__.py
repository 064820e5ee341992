"""The command line: its commands, and the exit status. Heavy imports stay inside the commands, so that help is instant."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import cast

import typer

from finetune.cli import data, learn, look, recipes, runs, tokenizer, train, use, weights
from finetune.cli.processes import help_first
from finetune.console import say
from finetune.errors import FinetuneError, Interrupted, RecipeError
from finetune.training.ranks import call_others, end, part, rank

INTERRUPTED = 130
# click's class, or its copy inside newer releases of typer
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Fine-tune GPT-2 on your own text, on a CPU or a GPU.",
)
COMMANDS = (
    *(train.run, train.classify, train.compare_architectures),
    *(use.predict, use.evaluate, use.generate, use.embed, use.chat, use.serve),
    *(runs.report, runs.compare, runs.runs, runs.export, runs.push, runs.labels),
    *(recipes.ls, recipes.show, recipes.cp),
    *(look.draw, look.xray, look.doctor),
)
for command in COMMANDS:
    app.command()(command)
for group in (weights, tokenizer, data, learn):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])


def _refuse_undecodable(arguments: list[str]) -> None:
    """File names must be UTF-8: the run's files could not record other bytes."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise RecipeError(
                "the command contains bytes that are not UTF-8", got=repr(argument), do="Rename the file."
            )


def _interrupt(number: int, frame: FrameType | None) -> None:
    """On the first signal raise KeyboardInterrupt, which cleans up; on the second end the process at once.

    Even then no file is half-written under its own name, and the system releases the run's lock.
    """
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, lambda *_: os._exit(INTERRUPTED))
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; the exit status is that of ``run_command``."""
    end(run_command(lambda: app(standalone_mode=False)))


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command; returns the exit status: 0, 2 (the user can fix it), 130 (interrupted, saved) or 1 (a bug).

    Of several processes, the first one runs the command, and the others share its work.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in a shell's background job
            signal.signal(number, _interrupt)
    try:
        _refuse_undecodable(sys.argv)
        status = (command if rank() == 0 else help_first)() or 0
        if status == INTERRUPTED:  # typer has caught a KeyboardInterrupt
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
        if error.errno not in (*DISK, errno.ENAMETOOLONG):
            raise
        name, do = str(error.filename or "a file"), "Free some space, or choose another directory."
        if error.errno == errno.ENAMETOOLONG:
            name, do = f"{name[:60]}...", "Give the name of a file or a directory."
        say(f"error: {name}: {error.strerror}. {do}", error=True)
        status = 2
    finally:
        if rank() == 0:
            call_others()
        part()
    return status

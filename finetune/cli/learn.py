"""The commands of ``finetune learn``."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.console import say

FolderOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder of the exercises.")]
WhichArgument = Annotated[
    str | None, typer.Argument(metavar="[EXERCISE]", help="Number or name; default: the next one.")
]
FOLDER = Path("learn")

app = typer.Typer(help="Learn how a GPT works: exercises that are checked with real weights.")


@app.callback(invoke_without_command=True)
def contents(context: typer.Context, folder: FolderOption = FOLDER) -> None:
    """List the exercises and the next one; writes the files to edit, and never overwrites yours."""
    if context.invoked_subcommand is None:
        from finetune.commands.learn.workbook import Workbook, contents

        for line in contents(Workbook(folder)):
            say(line)


@app.command("check")
def check(which: WhichArgument = None, folder: FolderOption = FOLDER) -> None:
    """Run your file inside the bundled model, and show what the model says with it."""
    from finetune.commands.learn.workbook import Workbook
    from finetune.commands.learn.workbook import check as check_file

    check_file(Workbook(folder), which, say)


@app.command("hint")
def hint(which: WhichArgument = None, folder: FolderOption = FOLDER) -> None:
    """Show a hint, and where this project defines the same function."""
    from finetune.commands.learn.workbook import Workbook
    from finetune.commands.learn.workbook import hint as show_hint

    for line in show_hint(Workbook(folder), which):
        say(line)

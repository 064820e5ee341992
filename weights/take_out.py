"""Take the weights of a pretraining out of its newest step checkpoint, while it runs or after.

    python weights/take_out.py RUN DIRECTORY

The directory holds the model in fp16 and its tokenizer: `--set weights=DIRECTORY` takes it up again, on any machine.
"""

import argparse
from pathlib import Path

import torch

from finetune.checkpoints.store import write_checkpoint
from finetune.console import say
from finetune.errors import RunError
from finetune.files import damage, read_json, write_manifest
from finetune.models.heads import LossModule
from finetune.run import Run
from finetune.tasks.setup import load_base
from finetune.training import resume


def take_out(directory: Path, out: Path) -> int:
    """Write the newest whole checkpoint's weights. Returns its step. Raises RunError where there is none."""
    run = Run.at(directory)
    loaded = load_base(run.recipe(), run)
    root = run.path("checkpoints")
    whole = next((path for path in sorted(root.glob("step-*"), reverse=True) if not damage(path)), None)
    if whole is None:
        raise RunError(f"{root}: no complete checkpoint", do="Let the run train for a minute or more.")
    resume.load_weights(whole, LossModule(loaded.body))
    write_checkpoint(out, loaded.body, loaded.tokenizer, dtype=torch.float16)
    write_manifest(out)
    return read_json(whole / "state.json")["step"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    say(f"{arguments.directory}: step {take_out(arguments.run, arguments.directory):,}")

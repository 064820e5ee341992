"""Continued pretraining: train a language model on your own text before you use it for anything else.

`finetune run pretrain --set data=my.txt` reads a text file, a folder or JSONL. Documents are separated by a line
`<|endoftext|>`; some are held out. The report gives bits per byte before and after, and continuations side by side.
The run is a checkpoint: `finetune classify my.csv --weights runs/pretrain` starts from it (domain adaptation).
"""

from finetune.recipe import Recipe, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify
from finetune.tasks.pretrain.settings import Pretrain

recipe = Recipe(
    task="pretrain",
    weights="auto",
    data="text-sample",
    pretrain=Pretrain(val_fraction=0.1),
    train=Train(method="full", epochs=3, metric="log_loss", evaluations_per_epoch=2, batch_size=8),
)
stages = [download, verify, prepare, train, evaluate, report, export]

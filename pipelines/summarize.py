"""Summaries and headlines: a file of long texts and short ones, for GPT-2 as it is.

`finetune run summarize --set data=my.jsonl` takes two columns, found by their names (source and target, or document and
summary, ...) or named by `--set seq2seq.source=text --set seq2seq.target=title`. One GPT reads the text, a separator
and then writes (TL;DR, as Radford et al. 2019 tried it, section 3.6, but trained); texts longer than its context lose
their end, which is counted. The report gives ROUGE-1, -2 and -L beside copying the text, the most similar known text's
summary and the model before training.
"""

from finetune.recipe import Recipe, Split, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify
from finetune.tasks.seq2seq.settings import Seq2Seq

recipe = Recipe(
    task="seq2seq",
    weights="auto",
    split=Split(val_fraction=0.05, test_fraction=0.1),
    seq2seq=Seq2Seq(family="decoder", max_new_tokens=96),
    train=Train(method="auto", metric="log_loss", batch_size=16),
)
stages = [download, verify, prepare, train, evaluate, report, export]

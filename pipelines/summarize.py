"""Summaries and headlines: GPT-2 trained on pairs of a long text and a short one.

`finetune run summarize --set data=my.jsonl` reads two columns, found by name (source and target, or document and
summary, ...) or given with `--set seq2seq.source=text --set seq2seq.target=title`. A single GPT reads the text and a
separator, then writes the summary (the TL;DR of Radford et al. 2019, section 3.6, but trained). Texts longer than its
context are truncated, and the report counts them. It compares ROUGE-1, -2 and -L with three baselines: copying the
text, the summary of the most similar training text, and the model before training.
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

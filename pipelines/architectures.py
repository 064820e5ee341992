"""Encoder-only, decoder-only and encoder-decoder of equal size on the same tasks, in one table each.

Three tasks: classification (encoders also after a short masked-language-model pretraining), spelling out numbers in
words, and language modelling on held-out text. Each starts from random weights and from the bundled ones. Within a
task, every model is trained on the same rows in the same order. `finetune compare-architectures --quick` takes minutes
on two cores; the full comparison takes many times as long.
"""

from finetune.comparisons.architectures import stage as architectures
from finetune.recipe import Recipe
from finetune.stages import download, prepare, report, verify

recipe = Recipe(task="classify", weights="mini", data="spam-sample")
stages = [download, verify, prepare, architectures, report]

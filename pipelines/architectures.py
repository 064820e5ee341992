"""Encoder-only, decoder-only and encoder-decoder of equal size on the same tasks, in one table each.

Classification (encoders also after a short masked-language-model pretraining), numbers written out in words, and the
next token of held-out text; from random weights and from the bundled ones. Every training of a task reads the same rows
in the same order. `finetune compare-architectures --quick` takes minutes on two cores, the whole many times that.
"""

from finetune.comparisons.architectures import stage as architectures
from finetune.recipe import Recipe
from finetune.stages import download, prepare, report, verify

recipe = Recipe(task="classify", weights="mini", data="spam-sample")
stages = [download, verify, prepare, architectures, report]

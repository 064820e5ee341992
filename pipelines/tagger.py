"""Names in sentences: which words are a person, a place or an organisation, learnt in two minutes on two cores.

From sentences in which each word has a tag (a CoNLL file, JSONL with lists of tokens and tags, or a table with one word
per row) to a model that finds such names, a report and a bundle that `finetune predict` and transformers load. The sample that
ships here was written for this project. It is small: the report shows how many of the names that are not in the training data
are found, and how a logistic regression over features of words compares. Your own: `finetune run tagger --set
data=my.conll`. Afterwards: `finetune predict runs/tagger "Anna Berg flew to Lisbon."`
"""

from finetune.recipe import Evaluate, Recipe, Split, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify

recipe = Recipe(
    task="tag",
    weights="mini",
    data="tag-sample",
    split=Split(val_fraction=0.15, test_fraction=0.25),
    train=Train(method="auto", epochs=10, batch_size=8, lr=3e-4, dropout=0.2),
    evaluate=Evaluate(metric="f1"),
)
stages = [download, verify, prepare, train, evaluate, report, export]

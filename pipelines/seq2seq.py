"""Source to target: numbers into English words, learned by an encoder-decoder in minutes on two cores.

Reads pairs (CSV, TSV, JSON, JSONL or Parquet with a source and a target column) and gives a model that writes targets,
a report and weights. The bundled sample has 20,000 numbers below a million and their names. A random tenth is held out
for testing, and the model gets nearly all of it right. Both sides of the encoder-decoder start from the weights of the
bundled mini; with `--set seq2seq.family=decoder`, a single GPT reads source and target instead. For your own pairs:
`finetune run seq2seq --set data=my.tsv`, or the pipelines `translate` and `summarize`. Afterwards: `finetune
generate runs/seq2seq "4,071"`.
"""

from finetune.recipe import Recipe, Split, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify

recipe = Recipe(
    task="seq2seq",
    weights="mini",
    data="seq2seq-sample",
    split=Split(val_fraction=0.025, test_fraction=0.1),
    train=Train(
        method="full", metric="log_loss", epochs=2, max_steps=800, batch_size=32, lr=1e-3, evaluations_per_epoch=2
    ),
)
stages = [download, verify, prepare, train, evaluate, report, export]

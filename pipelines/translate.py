"""Translation: an encoder-decoder that starts from GPT-2's weights, trained on sentences and their translations.

`finetune run translate --set data=my.tsv` reads two columns, found by name or given with
`--set seq2seq.source=english --set seq2seq.target=french`. The report gives BLEU and chrF with sacrebleu's signature,
and compares them with copying the source, the translation of the most similar training sentence, and the model before
training. GPT-2 was trained on English: it reads English well but writes other languages poorly, and tens of thousands
of pairs are not enough for a good translator. With mini, an epoch of 40,000 short sentences takes about half an hour on
one core; GPT-2 124M needs a GPU.
"""

from finetune.recipe import Recipe, Split, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify
from finetune.tasks.seq2seq.settings import Seq2Seq

recipe = Recipe(
    task="seq2seq",
    weights="auto",
    split=Split(val_fraction=0.05, test_fraction=0.05),
    seq2seq=Seq2Seq(family="encoder-decoder", label_smoothing=0.1, beams=4),
    train=Train(method="full", metric="log_loss", batch_size=64),
)
stages = [download, verify, prepare, train, evaluate, report, export]

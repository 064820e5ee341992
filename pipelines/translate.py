"""Translation: a file of sentences and their translations, for an encoder-decoder that begins with GPT-2's weights.

`finetune run translate --set data=my.tsv` takes two columns, found by their names or named by
`--set seq2seq.source=english --set seq2seq.target=french`. The report gives BLEU and chrF with sacrebleu's signature,
beside copying the source, the most similar known sentence and the model before training. GPT-2 knows English: it reads
it well and writes other languages with effort, and ten thousands of pairs make no translator. A pass over 40,000 short
sentences takes mini about half an hour of one core; GPT-2 124M wants a GPU.
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

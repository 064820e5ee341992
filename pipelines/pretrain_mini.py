"""The bundled checkpoint: pretrain a small GPT-2 from scratch on open text.

How weights/mini was made, on one thread of a CPU with bf16, in 77 minutes. `--set data=FOLDER` names a folder of text
files, `--set shape.tokenizer=DIR` a vocabulary from `finetune tokenizer train`. The shares weigh the sources so that it
sounds like today: dialogues, mail, web, reference and textbooks, with old novels as less than a third of the tokens.
"""

from finetune.recipe import Recipe, Shape, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify
from finetune.tasks.pretrain.settings import Pretrain

SHARES = {"c4_sample": 3.0, "devils_dictionary_jargon": 0.3, "dialogues_sgd": 0.5, "fortunes": 1.0,
          "mailing_list_ham": 2.0, "masc": 2.0, "novels_1830-1930": 0.05, "openstax_textbooks": 0.8,
          "tatoeba_english": 1.0, "tinyshakespeare": 0.0, "us_presidents_speeches": 0.6, "wikipedia_mixed": 3.0,
          "wordnet_glosses": 0.15}

recipe = Recipe(
    task="pretrain", weights="scratch", shape=Shape(layers=6, width=256, heads=4, context=256),
    pretrain=Pretrain(val_fraction=0.01, shares=SHARES),
    train=Train(method="full", epochs=1, evaluations_per_epoch=20, patience=100, metric="log_loss", optimizer="muon",
                batch_size=16, micro_batch_tokens=2048, lr=5e-3, min_lr_fraction=0.02, warmup_fraction=0.05,
                beta_2=0.98, precision="bf16", max_steps=1800, threads=1))
stages = [download, verify, prepare, train, evaluate, report, export]

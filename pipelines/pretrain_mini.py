"""The bundled checkpoint: pretrain a small GPT-2 from scratch on open text.

Settings: `--set data=FOLDER` for a folder of text files, compressed or not; `--set shape.tokenizer=DIR` for a
vocabulary from `finetune tokenizer train`; `--set pretrain.exclude=...` for data sets that the model will be tested on.
The shares favour short messages, questions, chat and reference text: a third is encyclopaedia, and novels, speeches and
manuals count less. A checkpoint at the constant learning rate can be trained further with `--set weights=DIR`. To finish
with the final decay, add `--set train.decay_fraction=1` and the length of the decay, `--set train.max_steps=N`.
"""

from finetune.recipe import Recipe, Shape, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify
from finetune.tasks.pretrain.settings import Pretrain

SHARES = {
    "c4_sample": 4.0,
    "childrens_stories": 2.0,
    "design_proposals_md": 0.3,
    "developer_guides": 0.5,
    "devils_dictionary_jargon": 0.3,
    "dialogues_chitchat": 2.0,
    "dialogues_persona_synthetic": 1.5,
    "dialogues_sgd": 0.4,
    "dialogues_topical_chat": 2.0,
    "fomc_minutes_statements": 0.2,
    "health_medquad": 0.6,
    "mailing_list_ham": 3.0,
    "masc": 3.0,
    "news_wikinews": 3.0,
    "novels_1830-1930": 0.15,
    "open_project_blogs": 0.7,
    "python_enhancement_proposals": 0.4,
    "recipes_public_domain": 2.0,
    "stackexchange_small_sites": 3.0,
    "standard_ebooks_20th_century": 0.4,
    "tatoeba_english": 0.0,
    "tinyshakespeare": 0.0,
    "us_presidents_speeches": 0.7,
    "usgov_websites": 0.7,
    "whitehouse_remarks_2009-2015": 0.2,
    "wikipedia_english": 1.5,
    "wikipedia_mixed": 3.0,
    "wordnet_glosses": 0.15,
}

recipe = Recipe(
    task="pretrain",
    weights="scratch",
    shape=Shape(layers=6, width=256, heads=4, context=512),
    pretrain=Pretrain(val_fraction=0.01, val_blocks=128, shares=SHARES),
    train=Train(
        method="full",
        epochs=16,
        evaluations_per_epoch=50,
        patience=1000,
        metric="log_loss",
        optimizer="muon",
        schedule="constant",
        decay_fraction=0.1,
        batch_size=16,
        micro_batch_tokens=2048,
        lr=4e-3,
        min_lr_fraction=0.02,
        warmup_fraction=0.0002,
        beta_2=0.98,
        threads=1,
    ),
)
stages = [download, verify, prepare, train, evaluate, report, export]

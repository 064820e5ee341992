"""Instruction following: a model that answers in the form that your pairs of question and answer have.

Takes JSON, JSONL or CSV with instruction, input and output (as Alpaca has them), or JSON with lists of messages. The
report puts the answers to held-out questions beside those of the model before training and beside the answer to the
most similar training question, with loss, exact match, ROUGE-L and samples. Offline it runs in a minute or two on two
cores, on the bundled small model and a sample of 425 pairs: enough to see that it works, too little for a model that
follows instructions. With GPT-2 355M: `finetune run instruct --set weights=gpt2-medium --set data=my.jsonl`.
Afterwards: `finetune chat runs/instruct`.
"""

from finetune.recipe import Recipe, Train
from finetune.stages import download, evaluate, export, prepare, report, train, verify
from finetune.tasks.instruct.settings import Instruct

recipe = Recipe(
    task="instruct",
    weights="auto",
    data="instruct-sample",
    instruct=Instruct(style="chat"),
    train=Train(method="auto", metric="log_loss", batch_size=4),
)
stages = [download, verify, prepare, train, evaluate, report, export]

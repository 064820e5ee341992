"""Instruction following: a model that answers in the style of your question-answer pairs.

Reads JSON, JSONL or CSV with instruction, input and output (as in Alpaca), or JSON with lists of messages. The report
compares the answers to held-out questions with those of the untrained model and with the answer to the most similar
training question: loss, exact match, ROUGE-L and samples. Offline, with the bundled small model and a sample of 425
pairs, it takes a minute or two on two cores. That shows how it works, but is too little for a model that follows
instructions. With GPT-2 355M: `finetune run instruct --set weights=gpt2-medium --set data=my.jsonl`.
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

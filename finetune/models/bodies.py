"""Every model that a checkpoint can hold below a head."""

from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.models.transformer import Transformer

Body = GPT | Transformer | Encoder | EncoderDecoder

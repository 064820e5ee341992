"""The table that maps tensor names between Hugging Face's GPT-2 and ours.

Hugging Face stores GPT-2's linear layers as Conv1D, input by output, the transpose of ``nn.Linear``.
"""

import re

# Hugging Face's name, our name, and whether the matrix is transposed; {} is the block number.
TABLE = [
    ("wte.weight", "token_embedding.weight", False),
    ("wpe.weight", "position_embedding.weight", False),
    ("h.{}.ln_1.weight", "blocks.{}.norm_1.weight", False),
    ("h.{}.ln_1.bias", "blocks.{}.norm_1.bias", False),
    ("h.{}.attn.c_attn.weight", "blocks.{}.attention.qkv.weight", True),
    ("h.{}.attn.c_attn.bias", "blocks.{}.attention.qkv.bias", False),
    ("h.{}.attn.c_proj.weight", "blocks.{}.attention.out.weight", True),
    ("h.{}.attn.c_proj.bias", "blocks.{}.attention.out.bias", False),
    ("h.{}.ln_2.weight", "blocks.{}.norm_2.weight", False),
    ("h.{}.ln_2.bias", "blocks.{}.norm_2.bias", False),
    ("h.{}.mlp.c_fc.weight", "blocks.{}.mlp.up.weight", True),
    ("h.{}.mlp.c_fc.bias", "blocks.{}.mlp.up.bias", False),
    ("h.{}.mlp.c_proj.weight", "blocks.{}.mlp.down.weight", True),
    ("h.{}.mlp.c_proj.bias", "blocks.{}.mlp.down.bias", False),
    ("ln_f.weight", "norm.weight", False),
    ("ln_f.bias", "norm.bias", False),
]

PREFIX = "transformer."  # in some files, before every name except the head's
TIED_HEAD = "lm_head.weight"  # if present, a copy of wte.weight
CLASSIFIER_HEAD = "score.weight"
SKIPPED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # causal mask buffers, not weights


def expand(layers: int) -> list[tuple[str, str, bool]]:
    """The table with one row per tensor of a model with this many blocks."""
    rows = []
    for theirs, ours, transposed in TABLE:
        numbers = range(layers) if "{}" in theirs else [0]
        rows += [(theirs.format(i), ours.format(i), transposed) for i in numbers]
    return rows

"""The exercises in order."""

from finetune.adapters.lora import LoRALinear
from finetune.checkpoints.convert import load_gpt
from finetune.commands.learn.exercise import Exercise
from finetune.commands.learn.inside import (
    check_attention,
    check_causal_mask,
    check_extend_cache,
    check_last_real,
    check_layer_norm,
    check_merge_once,
    check_tied_head,
    check_to_linear,
)
from finetune.commands.learn.judging import check_leakage, check_mcnemar, check_wilson
from finetune.commands.learn.learning import check_inputs_and_targets, check_merge_lora, check_temperature, check_top_p
from finetune.evaluation.calibration import softmax
from finetune.evaluation.intervals import mcnemar, wilson
from finetune.export.plain_reader import PlainReader
from finetune.models.cache import LayerCache
from finetune.models.gpt import GPT, causal_mask_at, gather_positions
from finetune.models.plain_attention import plain_attention
from finetune.models.sampling import filter_logits
from finetune.tables.splits import normalise_text
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tokenizer import merge_once

EXERCISES = (
    Exercise(
        "merge-once",
        "Merge bytes: how a word becomes tokens",
        "Go through the positions 0 to len(parts) - 2. At each, the pair is (parts[i], parts[i + 1]). Of the pairs that are "
        "in ranks, take the position with the lowest rank; min() with a key does it, and prefers the first of equal ones. "
        "Return a new list in which the two parts at that position are joined: parts[i] + parts[i + 1].",
        check_merge_once,
        merge_once,
    ),
    Exercise(
        "causal-mask",
        "The causal mask: no peeking at the answer",
        "The lower triangle with the diagonal. torch.ones(length, length) is full of ones, .tril() keeps the lower "
        "triangle, and .bool() makes True and False of it.",
        check_causal_mask,
        causal_mask_at,
    ),
    Exercise(
        "attention",
        "Scaled dot-product attention",
        "scores = query @ key.transpose(-2, -1) has the shape (B, H, T, T). Divide it by the square root of "
        "query.shape[-1]. Where the mask is False, set the scores to minus infinity (scores.masked_fill(~mask, ...)), "
        "so that the softmax over the last dimension makes them 0. Then multiply by value.",
        check_attention,
        plain_attention,
    ),
    Exercise(
        "layer-norm",
        "Layer norm",
        "x.mean(dim=-1, keepdim=True) is each token's mean. The variance is the mean of (x - mean) ** 2, or "
        "x.var(dim=-1, keepdim=True, unbiased=False). eps is added to the variance, inside the square root.",
        check_layer_norm,
        PlainReader._norm,
    ),
    Exercise(
        "tied-head",
        "The tied head: one table for input and output",
        "A matrix product of hidden (B, T, C) with the transposed table (C, V): the @ of PyTorch does it for all texts "
        "and tokens at once.",
        check_tied_head,
        GPT.forward,
    ),
    Exercise(
        "to-linear",
        "Read GPT-2's weights: the transposed matrices",
        "Look at the end of the name: .endswith() also takes a tuple of endings. tensor.T is the transpose. In mini, "
        "attn.c_proj.weight has as many inputs as outputs: its shape cannot tell you.",
        check_to_linear,
        load_gpt,
    ),
    Exercise(
        "inputs-and-targets",
        "Shifted targets: what a language model learns from",
        "The inputs are all tokens but the last, ids[:-1]; the targets all but the first.",
        check_inputs_and_targets,
        PackedTokens.batch,
    ),
    Exercise(
        "extend-cache",
        "The KV cache",
        "Tokens are dimension 2 of (B, H, S, D). torch.cat joins tensors along a dimension; earlier tokens come first.",
        check_extend_cache,
        LayerCache.extend,
    ),
    Exercise(
        "top-p",
        "Top-p: sample from the likeliest tokens",
        "Sort the probabilities from high to low: values, order = probabilities.sort(descending=True). A token is kept if "
        "the sum of the likelier ones, values.cumsum(0) - values, is still below p. Put the result back into the order "
        "of the vocabulary: kept = torch.zeros_like(...); kept[order] = ... Handle p = 1 first, without a sum.",
        check_top_p,
        filter_logits,
    ),
    Exercise(
        "merge-lora",
        "LoRA: merge the adapter into the weights",
        "lora_B @ lora_A has the shape of the weight. The rank r is lora_A.shape[0]. The update is scaled by alpha / r, "
        "once.",
        check_merge_lora,
        LoRALinear.merged,
    ),
    Exercise(
        "last-real",
        "The last real token of a padded batch",
        "attention_mask.sum(dim=1) is the number of real tokens in each row; the last one is at that number minus 1. "
        "hidden[torch.arange(B), positions] takes one position of each row.",
        check_last_real,
        gather_positions,
    ),
    Exercise(
        "temperature",
        "The temperature: sharper and flatter probabilities",
        "Divide the logits, not the probabilities. Then subtract the largest, .exp(), and divide by the sum.",
        check_temperature,
        softmax,
    ),
    Exercise(
        "wilson",
        "Wilson's interval: how sure is 19 of 20?",
        "Write the two formulas line by line, with z2 = z * z. The interval is centre - half to centre + half. Deal with "
        "n = 0 before you divide by it.",
        check_wilson,
        wilson,
    ),
    Exercise(
        "mcnemar",
        "McNemar's test: is one model better than the other?",
        "With n = only_a + only_b, k heads have the probability comb(n, k) / 2 ** n. Add up those of all k from 0 to n "
        "whose comb(n, k) is at most comb(n, only_a).",
        check_mcnemar,
        mcnemar,
    ),
    Exercise(
        "leakage",
        "Leakage: find the copies of training rows in a test set",
        'unicodedata.normalize("NFKC", text), then .casefold(), then " ".join(text.split()), then re.sub(r"\\d", "0", ...).',
        check_leakage,
        normalise_text,
    ),
)

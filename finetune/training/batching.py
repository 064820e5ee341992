"""The rows of each optimizer step, as pure functions, so there is no state to restore on resume."""

import numpy as np


def epoch_batches(lengths: list[int], batch_size: int, seed: int, epoch: int, pool: int = 32) -> list[list[int]]:
    """The batches of one epoch, a function of (seed, epoch) only; every row is in exactly one batch.

    Rows are shuffled, then sorted by length within pools of `pool` batches to reduce padding, and the batches are
    shuffled again.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    by_length = []
    for start in range(0, len(order), pool * batch_size):
        members = order[start : start + pool * batch_size]
        by_length += sorted(members.tolist(), key=lambda row: lengths[row])
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    return [batches[position] for position in random.permutation(len(batches))]


def micro_batches(rows: list[int], lengths: list[int], token_budget: int) -> list[list[int]]:
    """Cut rows, sorted by length, into forward passes of at most `token_budget` tokens, including padding.

    A row longer than the budget gets its own forward pass.
    """
    parts: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (lengths[row], row)):
        if parts and (len(parts[-1]) + 1) * lengths[row] <= token_budget:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts

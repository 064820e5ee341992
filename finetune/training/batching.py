"""The rows of each optimizer step, as pure functions, so there is no state to restore on resume."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

ENOUGH = 512  # tokens of a forward pass that keep a CPU's matrix products busy
PADDING = 0.1  # of a forward pass without gradients, at most, once it has enough tokens


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, pool: int = 32, group: range | None = None
) -> list[list[int]]:
    """The batches of one epoch, a pure function of (seed, epoch). Each row, or each row of `group`, is in exactly one.

    Rows are shuffled, then sorted by length within pools of `pool` batches to reduce padding, and the batches are
    shuffled again.
    """
    rows = range(len(lengths)) if group is None else group
    random = np.random.default_rng([seed, epoch] if group is None else [seed, epoch, rows.start])
    order = random.permutation(len(rows)) + rows.start
    by_length = []
    for start in range(0, len(order), pool * batch_size):
        members = order[start : start + pool * batch_size]
        by_length += sorted(members.tolist(), key=lambda row: lengths[row])
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    return [batches[position] for position in random.permutation(len(batches))]


class Batches:
    """The batches of every epoch. Only one epoch, or one group of it, is in memory at a time.

    groups: sizes of the groups into which consecutive rows fall, such as the blocks of a shard. A batch takes its rows
    from one group, and the order of the groups changes with the epoch. Without groups, all rows form one.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, groups: Sequence[int] = ()):
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.groups = groups or (len(lengths),)
        self.per_epoch = steps_per_epoch(len(lengths), batch_size, groups)
        self.epoch, self.group = -1, -1
        self.order: list[int] = []  # the groups of the epoch
        self.ends: list[int] = []  # cumulative number of batches after each of them
        self.held: list[list[int]] = []  # the batches of the current group

    def at(self, step: int) -> list[int]:
        """The rows of a step, counted from 0."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.group = epoch, -1
            self.order = self._order(epoch)
            self.ends = list(accumulate(math.ceil(self.groups[group] / self.batch_size) for group in self.order))
        place = bisect_right(self.ends, position)
        if self.order[place] != self.group:
            self.group = self.order[place]
            self.held = self._of_group(epoch, self.group)
        return self.held[position - self.ends[place]]  # a negative index, counted from the group's end

    def ahead(self, step: int, steps: int) -> list[int]:
        """The rows of the next step and the first row of the next group, to be read ahead; empty after `steps` steps."""
        if step + 1 >= steps:
            return []
        rows, position = self.at(step + 1), (step + 1) % self.per_epoch
        place = bisect_right(self.ends, position)
        if step + 1 - position + self.ends[place] >= steps or len(self.groups) == 1:
            return rows
        group = (self.order + self._order(self.epoch + 1)[:1])[place + 1]
        return [*rows, sum(self.groups[:group])]

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.groups)).tolist()

    def first(self) -> list[list[int]]:
        """Representative batches: those of the first epoch, or of its first group."""
        return self._of_group(0, 0)

    def _of_group(self, epoch: int, group: int) -> list[list[int]]:
        start = sum(self.groups[:group])
        rows = range(start, start + self.groups[group]) if len(self.groups) > 1 else None
        return epoch_batches(self.lengths, self.batch_size, self.seed, epoch, group=rows)


def steps_per_epoch(rows: int, batch_size: int, groups: Sequence[int] = ()) -> int:
    """Optimizer steps in an epoch."""
    return sum(math.ceil(group / batch_size) for group in groups or (rows,))


def micro_batches(rows: list[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
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


def inference_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut all rows, sorted by length, into forward passes without gradients: little padding matters more than few passes.

    A pass has at most `token_budget` tokens, including padding. It also ends, once it has ENOUGH tokens, where the next
    row would make more than a tenth of it padding. A training step has few rows of similar lengths and does not need this.
    """
    parts: list[list[int]] = []
    real = padded = 0  # tokens of the last pass
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        larger = (len(parts[-1]) + 1) * lengths[row] if parts else 0
        wasteful = padded >= ENOUGH and real + lengths[row] < (1 - PADDING) * larger
        if not parts or larger > token_budget or wasteful:
            parts.append([])
            real, larger = 0, lengths[row]
        parts[-1].append(row)
        real, padded = real + lengths[row], larger
    return parts


def padded_tokens(lengths: Sequence[int], token_budget: int) -> int:
    """The tokens, including padding, of the passes of ``inference_batches``."""
    return sum(len(rows) * lengths[rows[-1]] for rows in inference_batches(lengths, token_budget))

"""Every row once an epoch, the same on every machine, and no forward pass above its budget."""

import random

import pytest

from finetune.training.batching import ENOUGH, epoch_batches, inference_batches, micro_batches, padded_tokens


def cases(count=60):
    """Seeded random sets of rows: (lengths, batch size, seed)."""
    source = random.Random(7)
    for _ in range(count):
        rows = source.choice([1, 2, 7, 8, 9, 100, 333])
        longest = source.choice([1, 5, 60, 1024])
        lengths = [source.randint(1, longest) for _ in range(rows)]
        yield lengths, source.choice([1, 2, 8, 16, 400]), source.randint(0, 99)


def test_each_row_is_in_one_batch_of_each_epoch():
    for lengths, batch_size, seed in cases():
        for epoch in (0, 1):
            batches = epoch_batches(lengths, batch_size, seed, epoch)
            assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
            assert len(batches) == -(-len(lengths) // batch_size)
            assert sorted(map(len, batches), reverse=True)[:-1] == [batch_size] * (len(batches) - 1)


def test_order_is_a_function_of_seed_and_epoch():
    for lengths, batch_size, seed in cases(20):
        first = epoch_batches(lengths, batch_size, seed, 3)
        random.random()
        assert epoch_batches(list(lengths), batch_size, seed, 3) == first
    lengths = [row % 17 + 1 for row in range(200)]
    orders = [epoch_batches(lengths, 8, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({str(order) for order in orders}) == 6
    members = [{frozenset(batch) for batch in order} for order in orders]
    assert not members[0] & members[1]  # not only the order of the batches changes


def test_rows_are_drawn_at_random_and_batches_do_not_run_from_short_to_long():
    lengths = list(range(1, 2001))
    batches = epoch_batches(lengths, 10, 0, 0, pool=20)
    means = [sum(lengths[row] for row in batch) / len(batch) for batch in batches]
    assert sum(one < other for one, other in zip(means, means[1:], strict=False)) < 0.6 * len(means)
    spread = [max(batch) - min(batch) for batch in batches]
    assert sum(spread) / len(spread) < 200  # of 2,000: batches hold rows of like length


def test_forward_passes_keep_to_the_budget():
    for lengths, _, seed in cases():
        rows = random.Random(seed).sample(range(len(lengths)), k=len(lengths) // 2 + 1)
        for budget in (1, 50, 500, 10**6):
            parts = micro_batches(rows, lengths, budget)
            assert sorted(row for part in parts for row in part) == sorted(rows)
            for part in parts:
                padded = len(part) * max(lengths[row] for row in part)
                assert padded <= budget or len(part) == 1
            if budget == 10**6:
                assert len(parts) == 1


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 2, 0, 1, 3]])
def test_a_long_row_is_alone_and_order_does_not_matter(rows):
    assert micro_batches(rows, [3, 900, 3, 2, 40], 100) == [[3, 0, 2], [4], [1]]


def test_neighbours_are_merged_as_far_as_the_budget_goes():
    parts = micro_batches(list(range(10)), [10] * 10, 40)
    assert [len(part) for part in parts] == [4, 4, 2]


def test_passes_without_gradients_keep_to_the_budget_and_to_little_padding():
    for lengths, *_ in cases():
        for budget in (1, 50, 5000, 10**6):
            parts = inference_batches(lengths, budget)
            assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
            every = [lengths[row] for part in parts for row in part]
            assert every == sorted(lengths)
            sizes = [len(part) * max(lengths[row] for row in part) for part in parts]
            assert padded_tokens(lengths, budget) == sum(sizes)
            for part, padded in zip(parts, sizes, strict=True):
                assert padded <= budget or len(part) == 1
                before = len(part[:-1]) * lengths[part[-2]] if len(part) > 1 else 0  # without its longest row
                real = sum(lengths[row] for row in part)
                assert before < ENOUGH or real >= 0.9 * padded


def test_a_pass_ends_only_where_the_budget_or_padding_demands_it():
    assert inference_batches([4] * 1000, 4000) == [list(range(1000))]
    assert [len(part) for part in inference_batches([4] * 1000, 2000)] == [500, 500]
    short = [4] * 128  # 512 tokens
    assert [len(part) for part in inference_batches([*short, 400], 10**6)] == [128, 1]
    assert [len(part) for part in inference_batches([*short[1:], 400], 10**6)] == [128]  # too few tokens to end there

"""What a dry run tries."""

from finetune.recipe import Train
from finetune.training import trial
from finetune.training.batching import epoch_batches


def test_a_dry_run_tries_batches_of_the_run_s_own_first_epoch():
    lengths = [3 + 7 * row % 50 for row in range(80)]
    settings = Train(batch_size=8, seed=3, epochs=2, micro_batch_tokens=10**6)
    first = epoch_batches(lengths, 8, 3, 0)
    chosen = trial.choose(lengths, settings)
    assert all(batch in first for batch in chosen) and max(map(lengths.__getitem__, chosen[0])) == max(lengths)
    short = settings.model_copy(update={"max_steps": 1})
    assert trial.choose(lengths, short) == [first[0]] * 4


def test_a_second_call_is_timed():
    calls: list[int] = []
    assert 0 <= trial.second_time(lambda: calls.append(1)) < 10 and len(calls) == 2

"""What a run of the task ``classify`` knows of its rows without the weights."""

from finetune.recipe import Recipe
from finetune.tasks.base import task_named


def test_a_preview_counts_further_files_and_given_splits(tmp_path, capsys):
    for name, sides in (("data", ["train"] * 8 + ["val"] * 2), ("test", ["test"] * 4)):
        rows = [f"{name} {'x' * i},{'ab'[i % 2]},{side}\n" for i, side in enumerate(sides)]
        (tmp_path / f"{name}.csv").write_text("text,label,split\n" + "".join(rows))
    recipe = Recipe(data=str(tmp_path / "data.csv"), test=str(tmp_path / "test.csv"), columns={"split": "split"})
    assert task_named(recipe.task).preview(recipe, 64).splits == {"train": 8, "val": 2, "test": 4}
    assert "rows: 14; train 8 / val 2 / test 4" in capsys.readouterr().out

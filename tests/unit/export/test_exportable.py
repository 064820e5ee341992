"""A draft takes a directory's place whole or not at all."""

import errno

import pytest
from safetensors import SafetensorError

from finetune.errors import WeightsError
from finetune.export.exportable import draft_of


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")])
def test_a_full_disk_loses_nothing(tmp_path, error):
    directory = tmp_path / "hf"
    directory.mkdir()
    (directory / "old").write_text("old")
    with pytest.raises(WeightsError, match="cannot write .*/hf; got No space left"), draft_of(directory) as draft:
        draft.mkdir()
        (draft / "new").write_text("new")
        raise error
    assert [path.name for path in tmp_path.rglob("*")] == ["hf", "old"]


def test_a_draft_of_a_process_that_was_killed_is_not_mixed_in(tmp_path):
    directory = tmp_path / "hf"
    with draft_of(directory) as draft:
        draft.mkdir()
    left = draft
    left.mkdir()
    (left / "half").write_text("half")
    with draft_of(directory) as draft:
        assert not draft.exists()
        draft.mkdir()
        (draft / "whole").write_text("whole")
    assert [path.name for path in directory.iterdir()] == ["whole"]

"""A draft takes a directory's place whole or not at all."""

import errno

import pytest
from safetensors import SafetensorError

from finetune.errors import WeightsError
from finetune.export.exportable import Exportable, draft_of, write_readme
from finetune.models.gpt import GPT, GPTConfig
from finetune.tokenizer import Tokenizer


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
    assert sorted(path.name for path in directory.iterdir()) == ["MANIFEST.json", "whole"]


def test_a_readme_has_no_control_characters(tmp_path):
    tokenizer = Tokenizer.of_bytes()
    thing = Exportable("run", GPT(GPTConfig(tokenizer.vocab_size, 8, 8, 1, 1)), tokenizer, str)
    write_readme(tmp_path, thing, "# a\x1b[31m\u202eb\n", library="onnx")
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("---\n") and "library_name: onnx" in readme and readme.endswith("---\n\n# a�[31m�b\n")

"""Names that no file system takes: an error in words from every command, and from Python."""

import json

import pytest

from finetune.checkpoints.sources import locate_weights
from finetune.errors import WeightsError

LONG = "win" * 700


@pytest.mark.parametrize(
    "command", [("classify", LONG), ("predict", LONG, "a"), ("draw", "attention", "--weights", LONG)]
)
def test_a_name_that_is_too_long_is_refused(finetune, command):
    done = finetune(*command)
    assert done.status == 2 and done.err.startswith("error: "), done
    assert "File name too long" in done.err or "unknown weights" in done.err


@pytest.mark.parametrize("name", [LONG, f"/tmp/{LONG}", f"/tmp/{LONG}/{LONG}"])
def test_an_adapter_for_weights_with_too_long_a_name_is_refused(tmp_path, name):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
    with pytest.raises(WeightsError, match="unknown weights"):
        locate_weights(str(tmp_path))

"""The cards of the bundled samples hold the figures that their scripts measure."""

import runpy
import sys

import pytest


@pytest.mark.parametrize("name", ["spam", "instruct"])
def test_a_card_holds_what_its_script_measures(root, monkeypatch, capsys, name):
    script = root / "data" / name / "check_sample.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    runpy.run_path(str(script), run_name="__main__")
    assert '"near_duplicates_pct"' in capsys.readouterr().out

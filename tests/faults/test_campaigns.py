"""The short form of the campaigns in tests/faults/campaigns; docs/reliability.md holds what the long form found."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGNS = Path(__file__).with_name("campaigns")


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits its memory")
@pytest.mark.parametrize(
    "campaign, options",
    [
        ("fuzz", ("--mutations", "40")),
        ("disk", ("--every", "75", "--sizes", "0")),
        pytest.param("kills", ("--tries", "12"), marks=pytest.mark.slow),
    ],
)
def test_every_try_of_a_short_campaign_holds(campaign, options, tmp_path):
    done = subprocess.run(
        [sys.executable, str(CAMPAIGNS / f"{campaign}.py"), *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_page_is_made_from_the_record(tmp_path):
    sys.path.insert(0, str(CAMPAIGNS))
    try:
        import json

        import record
    finally:
        sys.path.pop(0)
    assert record.PAGE.read_text(encoding="utf-8") == record.page(json.loads(record.RECORD.read_text(encoding="utf-8")))

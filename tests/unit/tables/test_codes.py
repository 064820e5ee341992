"""The list of checks: each has a code of its own, and no finding is made without one."""

import re

import pytest

from finetune.errors import RecipeError
from finetune.tables.codes import BY_CODE, BY_NAME, CHECKS, check_muted
from finetune.tables.findings import Finding, without_muted


def test_codes_are_in_order_and_every_check_has_its_own():
    codes = [check.code for check in CHECKS]
    assert codes == sorted(codes) and all(re.fullmatch(r"FT\d{3}", code) for code in codes)
    assert len(BY_NAME) == len(BY_CODE) == len(CHECKS)
    assert all(
        re.fullmatch(r"[a-z_]+", check.name) and re.fullmatch(r"[A-Z][^\n.]+\.", check.meaning) for check in CHECKS
    )


def test_a_finding_has_its_code_and_none_is_made_without():
    finding = Finding("cut_texts", "note", "12 texts are cut")
    assert finding.code == "FT012" and list(finding.to_json())[:2] == ["code", "check"]
    for check, level in (("unheard_of", "note"), ("cut_texts", "stop"), ("many_labels", "warning")):
        with pytest.raises(AssertionError):
            Finding(check, level, "words")


def test_muted_codes_are_sorted_and_take_their_findings_away():
    found = [Finding(name, "note", "words") for name in ("emoji", "cut_texts", "layout")]
    assert check_muted(["FT016", "FT002", "FT016"]) == ["FT002", "FT016"]
    assert without_muted(found, ["FT002", "FT016"]) == [found[1]]
    assert without_muted(found, []) == found


@pytest.mark.parametrize("code", ["FT999", "ft012", "emoji", ""])
def test_an_unknown_code_is_an_error_that_names_the_known(code):
    with pytest.raises(RecipeError, match="cannot ignore a finding with an unknown code") as raised:
        check_muted(["FT012", code])
    assert all(f"{check.code} {check.name}" in str(raised.value) for check in CHECKS)


@pytest.mark.parametrize("check", [check for check in CHECKS if check.stops], ids=lambda check: check.code)
def test_what_makes_training_impossible_cannot_be_muted(check):
    with pytest.raises(RecipeError, match=rf"{check.code} \({check.name}\) makes training impossible and cannot be"):
        check_muted(["FT012", check.code])

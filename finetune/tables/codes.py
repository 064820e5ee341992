"""Every check of a labelled table with its code: the one list. docs/findings.md has a paragraph on each.

Codes are stable: a check keeps its code, and the code of a removed check is not reused.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune.errors import RecipeError, listed

GUIDE = "docs/findings.md"


@dataclass(frozen=True)
class Check:
    """One check. stops: its finding makes training impossible, so it cannot be muted."""

    code: str
    name: str
    meaning: str
    stops: bool = False


CHECKS = (
    Check("FT001", "encoding", "The file is not UTF-8, and no encoding was named.", stops=True),
    Check("FT002", "layout", "The file is written in a way that had to be worked out."),
    Check("FT003", "quoting", "A reader with default quoting would lose rows of this file."),
    Check("FT004", "swallowed_rows", "A quote that is not closed swallowed the rows behind it."),
    Check("FT005", "columns", "The columns of texts and labels were found by name or content."),
    Check("FT006", "unused_split", "A column names the split of each row, and is not used."),
    Check("FT007", "leaking_column", "Another column tells the label almost by itself."),
    Check("FT008", "reserved_columns", "A column has the name of one that predictions add."),
    Check("FT009", "one_text", "All rows hold the same text.", stops=True),
    Check("FT010", "few_texts", "The column of texts holds few different texts."),
    Check("FT011", "empty_text", "Rows without a text are left out."),
    Check("FT012", "cut_texts", "Texts are longer than the model reads, and lose their end."),
    Check("FT013", "other_alphabet", "Many letters are of another alphabet than the Latin one."),
    Check("FT014", "broken_characters", "Texts hold characters that a wrong encoding left."),
    Check("FT015", "control_characters", "Texts hold control characters, such as a null byte."),
    Check("FT016", "emoji", "Texts hold emoji."),
    Check("FT017", "many_labels", "The column of labels holds too many different values.", stops=True),
    Check("FT018", "empty_label", "Rows without a label are left out."),
    Check("FT019", "missing_words", "Labels are words that programs write for a missing value."),
    Check("FT020", "label_spelling", "One label is written in several ways."),
    Check("FT021", "rare_labels", "Labels have too few rows."),
    Check("FT022", "imbalance", "One label has many times the rows of another."),
    Check("FT023", "label_in_text", "Texts name their own label."),
    Check("FT024", "exact_duplicates", "Rows repeat the text of an earlier row."),
    Check("FT025", "conflicting_labels", "The same text stands under several labels."),
    Check("FT026", "near_duplicates", "Rows have almost the same text as another row."),
    Check("FT027", "near_duplicates_with_other_label", "Almost the same text stands under two labels."),
    Check("FT028", "shared_groups", "Rows of one group stand on two sides of a split that came with the data."),
    Check("FT029", "test_rows_near_train", "Test rows have almost the same text as a training row."),
)
BY_NAME = {check.name: check for check in CHECKS}
BY_CODE = {check.code: check for check in CHECKS}


def check_muted(codes: Iterable[str]) -> list[str]:
    """The unique codes in order. Raises RecipeError for an unknown code, or for a check that stops training."""
    codes = sorted(set(codes))
    if unknown := [code for code in codes if code not in BY_CODE]:
        raise RecipeError(
            "no such finding to ignore",
            got=listed(unknown),
            known=", ".join(f"{check.code} {check.name}" for check in CHECKS),
            do=f"See: {GUIDE}",
        )
    for code in codes:
        if BY_CODE[code].stops:
            raise RecipeError(
                f"{code} ({BY_CODE[code].name}) makes training impossible and cannot be ignored",
                do=f"{BY_CODE[code].meaning} Mend the table first. See: {GUIDE}",
            )
    return codes

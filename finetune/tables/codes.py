"""The one list of checks of data and of models trained on them, with their codes. docs/findings.md explains each.

Codes are stable: a check keeps its code, and the code of a removed check is not reused.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune.errors import RecipeError, listed

GUIDE = "docs/findings.md"


@dataclass(frozen=True)
class Check:
    """One check. stops: its finding prevents training, so it cannot be muted."""

    code: str
    name: str
    meaning: str
    stops: bool = False


CHECKS = (
    Check("FT001", "encoding", "The file is not UTF-8 and no encoding was given.", stops=True),
    Check("FT002", "layout", "The layout of the file was detected from its content."),
    Check("FT003", "quoting", "A reader with default quoting would lose rows of this file."),
    Check("FT004", "swallowed_rows", "An unclosed quote swallowed the rows after it."),
    Check("FT005", "columns", "The text and label columns were inferred."),
    Check("FT006", "unused_split", "A column gives the split of each row but is not used."),
    Check("FT007", "leaking_column", "Another column predicts the label almost perfectly."),
    Check("FT008", "reserved_columns", "A column has a name that predictions use."),
    Check("FT009", "one_text", "All rows have the same text.", stops=True),
    Check("FT010", "few_texts", "The text column has few different texts."),
    Check("FT011", "empty_text", "Rows without a text are left out."),
    Check("FT012", "cut_texts", "Texts are longer than the model's input and are truncated."),
    Check("FT013", "other_alphabet", "Many letters are not Latin."),
    Check("FT014", "broken_characters", "Texts contain wrongly decoded characters."),
    Check("FT015", "control_characters", "Texts contain control characters, such as a null byte."),
    Check("FT016", "emoji", "Texts contain emoji."),
    Check("FT017", "many_labels", "The label column has too many different values.", stops=True),
    Check("FT018", "empty_label", "Rows without a label are left out."),
    Check("FT019", "missing_words", "Some labels look like missing values."),
    Check("FT020", "label_spelling", "A label is spelled in several ways."),
    Check("FT021", "rare_labels", "Some labels have too few rows."),
    Check("FT022", "imbalance", "One label is far more frequent than another."),
    Check("FT023", "label_in_text", "Texts contain the name of their label."),
    Check("FT024", "exact_duplicates", "Rows repeat the text of an earlier row."),
    Check("FT025", "conflicting_labels", "The same text has several labels."),
    Check("FT026", "near_duplicates", "Rows have nearly the same text as another row."),
    Check("FT027", "near_duplicates_with_other_label", "Nearly identical texts have different labels."),
    Check("FT028", "shared_groups", "A split that came with the data divides a group."),
    Check("FT029", "test_rows_near_train", "Test rows have nearly the same text as a training row."),
    Check("FT030", "white_space_clue", "White space or invisible characters give the label away."),
    Check("FT031", "style_clue", "Punctuation, case or length alone gives the label away."),
    Check("FT032", "nested_texts", "The texts are lists or objects instead of text."),
    Check("FT033", "repeated_header", "Rows that repeat the header are left out."),
    Check("FT034", "total_row", "Rows with a total of the table are left out."),
    Check("FT035", "cannot_split", "The rows cannot be divided into train, validation and test.", stops=True),
    Check("FT036", "several_labels", "Cells of the label column hold several labels.", stops=True),
    Check("FT050", "label_suspects", "The labels of some rows may be wrong."),
    Check("FT060", "shortcut", "One word or rule predicts the labels nearly as well as the trained model."),
    Check("FT061", "weak_slice", "The trained model is worse on a kind of test rows than on the others."),
    Check("FT062", "fragile_decisions", "Small changes that keep a text's label flip many decisions."),
    Check("FT070", "half_rows", "Rows without a source or without a target are left out."),
    Check("FT071", "malformed_records", "Records cannot be read as instructions.", stops=True),
    Check("FT072", "cut_sources", "Sources or prompts are longer than the model's input and are truncated."),
    Check("FT073", "long_targets", "Targets or answers are longer than the model's input."),
    Check("FT074", "repeated_pairs", "The same source or question occurs again with the same target or answer."),
    Check("FT075", "several_targets", "The same source or question has several targets or answers."),
    Check("FT076", "copied_targets", "Targets or answers repeat their source or question."),
    Check("FT077", "one_target", "Many rows have the same target or answer."),
)
BY_NAME = {check.name: check for check in CHECKS}
BY_CODE = {check.code: check for check in CHECKS}


def check_muted(codes: Iterable[str]) -> list[str]:
    """The unique codes in order. Raises RecipeError for an unknown code, or for a check that stops training."""
    codes = sorted(set(codes))
    if unknown := [code for code in codes if code not in BY_CODE]:
        raise RecipeError(
            "cannot ignore a finding with an unknown code",
            got=listed(unknown),
            known=", ".join(f"{check.code} {check.name}" for check in CHECKS),
            do=f"See: {GUIDE}",
        )
    for code in codes:
        if BY_CODE[code].stops:
            raise RecipeError(
                f"{code} ({BY_CODE[code].name}) makes training impossible and cannot be ignored",
                do=f"{BY_CODE[code].meaning} Correct the table first. See: {GUIDE}",
            )
    return codes

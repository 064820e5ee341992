"""Cells of tables that we write, safe to open in a spreadsheet, and what they were before."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")


def defuse(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (CWE-1236): numbers stay, other text gets an apostrophe.

    So does text that has one already, or more: `undefuse` then gives back every text.
    """
    if not cell.lstrip("'").startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def undefuse(cell: str) -> str:
    """The text that `defuse` made this cell of."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell

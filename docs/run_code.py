"""Run the code of a page and put what it prints below it: python docs/run_code.py PAGE ...

The blocks of Python on a page run in order, in one namespace and in an empty folder. A block of text that directly follows
is what the code prints. A console block below the comment <!-- run --> holds commands after a dollar sign, with what they
print; there a line of three dots stands for any lines. tests/repo/test_docs_site.py runs the pages and compares.

Rounding differs between processors, and a training makes it larger. From a block that trains on, numbers may differ by a
third, and quoted text is not compared.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", flags=re.M | re.S)
CONSOLE = re.compile(r"^<!-- run -->\n```console\n(?P<code>.*?)^```\n", flags=re.M | re.S)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?%?(?![\w])")
TRAINS = re.compile(r"optimizer\.step\(\)")
QUOTED = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")
# Of a number; or one and a half units in its last digit. Whole numbers are equal; percentages do not count as whole.
TOLERANCE, TRAINED = 0.02, 0.34


@dataclass(frozen=True)
class Ran:
    """A block that was run: what the page says that it prints, what it printed, and where the block stands."""

    expected: str
    printed: str
    line: int
    match: re.Match[str] | None = None
    trained: bool = False

    def right(self) -> bool:
        """Whether it printed what the page says."""
        expected, printed = (QUOTED.sub("''", text) if self.trained else text for text in (self.expected, self.printed))
        return same(expected, printed, TRAINED if self.trained else TOLERANCE)


def run_page(text: str) -> Iterator[Ran]:
    """Run each block of Python on a page."""
    namespace: dict[str, object] = {"__name__": "page"}
    trained = False
    with in_new_folder():
        for match in PYTHON.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            code = compile("\n" * (line - 1) + match["code"], "page", "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, namespace)
            trained = trained or bool(TRAINS.search(match["code"]))
            yield Ran(match["output"] or "", printed.getvalue(), line, match, trained)


def run_commands(text: str) -> Iterator[Ran]:
    """Run the commands of each console block that is marked."""
    from finetune.cli import main

    with in_new_folder():
        for match in CONSOLE.finditer(text):
            shown = ""
            for line in re.findall(r"^\$ (.+)$", match["code"], flags=re.M):
                words = split(line)
                assert words[0] == "finetune", line
                with (
                    mock.patch.object(sys, "argv", words),
                    contextlib.redirect_stdout(io.StringIO()) as printed,
                    contextlib.suppress(SystemExit),
                ):
                    main()
                shown += f"$ {line}\n{printed.getvalue()}"
            yield Ran(match["code"], shown, text.count("\n", 0, match.start()) + 1, match)


@contextlib.contextmanager
def in_new_folder() -> Iterator[None]:
    """Work in an empty folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def split(line: str) -> list[str]:
    """The words of a command, without what follows a comment sign."""
    return shlex.split(line, comments=True)


def same(expected: str, printed: str, tolerance: float = TOLERANCE) -> bool:
    """Whether two outputs are equal but for the last digits of numbers; a line of three dots stands for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(NUMBER.sub("#", line.rstrip())) + r" *\n"
        for line in expected.splitlines()
    )
    found = re.fullmatch(pattern, "".join(NUMBER.sub("#", line) + "\n" for line in printed.splitlines()))
    if "..." in expected:
        return bool(found)
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(printed), strict=False)
    return bool(found) and all(close(*pair, tolerance) for pair in pairs)


def close(expected: str, printed: str, tolerance: float) -> bool:
    """Whether two numbers are equal within the tolerance."""
    a, b = (float(number.replace(",", "").rstrip("%")) for number in (expected, printed))
    digits = len(expected.rstrip("%").partition(".")[2].partition("e")[0])
    whole = not set(expected) & set(".e%")
    return abs(a - b) <= (0 if whole else max(tolerance * abs(a), 1.5 * 10.0**-digits))


def filled(text: str) -> str:
    """The page with the output of each block of Python below it."""
    for ran in reversed(list(run_page(text))):
        assert ran.match is not None
        output = f"\n```text\n{ran.printed.rstrip()}\n```\n" if ran.printed.strip() else ""
        text = text[: ran.match.start()] + f"```python\n{ran.match['code']}```\n{output}" + text[ran.match.end() :]
    return text


def main() -> None:
    """Fill the pages that are named."""
    for name in sys.argv[1:]:
        path = Path(name).resolve()
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        path.write_text(new, encoding="utf-8")
        print(name, "changed" if new != text else "unchanged")


if __name__ == "__main__":
    main()

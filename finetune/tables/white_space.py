"""Find and fold white space and invisible characters in a text."""

import re

# no-break space, soft hyphen, zero-width space, marks of direction, line and paragraph separators, byte order mark;
# without the joiners, which change how letters and emoji are drawn
INVISIBLE = re.compile("[\u00a0\u00ad\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\ufeff]")


def fold_white_space(text: str) -> str:
    """The text without invisible characters and outer white space; each run of white space becomes one space."""
    return " ".join(INVISIBLE.sub(lambda found: " " if found[0].isspace() else "", text).split())

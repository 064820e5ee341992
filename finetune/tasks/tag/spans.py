"""Tags and the names that they mark.

Tags are IOB2 (Ramshaw and Marcus 1995, in the form of CoNLL-2002): ``B-KIND`` on a name's first word, ``I-KIND`` on its
others, ``O`` on every other word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = "O"
IOB2 = {"B": "B", "I": "I", "S": "B", "U": "B", "E": "I", "L": "I"}  # prefixes, also those of BIOES and BILOU


@dataclass(frozen=True)
class Span:
    """A name: its kind, its first word and the word after its last."""

    kind: str
    begin: int
    end: int

    def overlaps(self, other: "Span") -> bool:
        """Whether the two share a word."""
        return self.begin < other.end and other.begin < self.end


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The names in a sentence's tags, as conlleval and seqeval count them.

    An ``I-KIND`` that does not continue a name of its kind begins one.
    """
    found, begin, kind = [], 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, own = tag.partition("-")
        continues = prefix == "I" and own == kind
        if kind and not continues:
            found.append(Span(kind, begin, place))
            kind = ""
        if own and not continues:
            kind, begin = own, place
    return found


def tags_of(spans: Sequence[Span], words: int) -> list[str]:
    """The IOB2 tags of a sentence of `words` words."""
    tags = [OUTSIDE] * words
    for span in spans:
        tags[span.begin : span.end] = [f"B-{span.kind}"] + [f"I-{span.kind}"] * (span.end - span.begin - 1)
    return tags


def as_iob2(tags: Sequence[str], prefixed: bool) -> list[str]:
    """Tags of IOB1, BIOES, BILOU, or (not `prefixed`) kinds alone, as IOB2.

    With kinds alone, adjacent words of the same kind are one name.
    """
    if not prefixed:
        return tags_of(spans_of([tag if tag == OUTSIDE else f"I-{tag}" for tag in tags]), len(tags))
    plain = [tag if tag == OUTSIDE else IOB2[tag[0]] + tag[1:] for tag in tags]
    return tags_of(spans_of(plain), len(tags))


def is_prefixed(tag: str) -> bool:
    """Whether a tag is a letter of a scheme, a dash and a kind."""
    return len(tag) > 2 and tag[0] in IOB2 and tag[1] == "-"

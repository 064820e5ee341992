"""Names are counted as seqeval counts them, for tags of every scheme and for tags of no scheme at all."""

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from finetune.tasks.tag.spans import Span, as_iob2, spans_of, tags_of

TAGS = ["O", "B-person", "I-person", "B-place", "I-place"]


def test_any_sequence_of_tags_has_the_names_that_seqeval_finds():
    draw = random.Random(0)
    for _ in range(2000):
        tags = draw.choices(TAGS, k=draw.randint(1, 8))
        assert [(own.kind, own.begin, own.end - 1) for own in spans_of(tags)] == get_entities(tags), tags


def test_names_and_tags_are_two_forms_of_the_same():
    spans = [Span("place", 0, 2), Span("place", 2, 3), Span("person", 4, 7)]
    tags = ["B-place", "I-place", "B-place", "O", "B-person", "I-person", "I-person", "O"]
    assert tags_of(spans, 8) == tags and spans_of(tags) == spans


@pytest.mark.parametrize(
    "tags, prefixed",
    [
        ("I-place I-place B-place O I-person", True),  # IOB1
        ("B-place E-place S-place O S-person", True),  # BIOES
        ("B-place L-place U-place O U-person", True),  # BILOU
        ("B-place I-place B-place O B-person", True),
    ],
)
def test_every_scheme_becomes_iob2(tags, prefixed):
    assert as_iob2(tags.split(), prefixed) == ["B-place", "I-place", "B-place", "O", "B-person"]


def test_neighbours_of_one_kind_without_a_scheme_are_one_name():
    assert as_iob2(["place", "place", "person", "O"], False) == ["B-place", "I-place", "B-person", "O"]


def test_kinds_may_hold_a_dash():
    assert spans_of(["B-work-of-art", "I-work-of-art"]) == [Span("work-of-art", 0, 2)]

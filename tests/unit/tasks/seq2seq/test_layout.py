"""What is supervised in one sequence and in two: the same tokens, those of the target and its end."""

import torch

from finetune.tasks.seq2seq.layout import Pair, one_sequence, pieces, two_sequences

END, IGNORE = 9, -100
PAIRS = [Pair([1, 2, 3], [4, 5]), Pair([6], [7])]
PIECE = Pair([1, 2], [3, 4], ends=False, separated=False)


def test_a_decoder_learns_the_target_and_its_end():
    inputs, targets = one_sequence(PAIRS, END, IGNORE)
    assert inputs.tolist() == [[1, 2, 3, END, 4, 5], [6, END, 7, END, END, END]]
    assert targets.tolist() == [[IGNORE] * 3 + [4, 5, END], [IGNORE, 7, END, IGNORE, IGNORE, IGNORE]]


def test_an_encoder_decoder_learns_the_same_tokens():
    source, inputs, targets, attention_mask = two_sequences(PAIRS, END, IGNORE)
    assert source[attention_mask].tolist() == [1, 2, 3, 6] and attention_mask.tolist() == [
        [True] * 3,
        [True, False, False],
    ]
    assert inputs.tolist() == [[END, 4, 5], [END, 7, END]]
    assert targets.tolist() == [[4, 5, END], [7, END, IGNORE]]
    _, other = one_sequence(PAIRS, END, IGNORE)
    assert targets[targets != IGNORE].tolist() == other[other != IGNORE].tolist()


def test_running_text_has_no_separator_and_no_end():
    inputs, targets = one_sequence([PIECE], END, IGNORE)
    assert inputs.tolist() == [[1, 2, 3]] and targets.tolist() == [[IGNORE, 3, 4]]
    assert one_sequence([PIECE], END, IGNORE, whole=True)[1].tolist() == [[2, 3, 4]]
    source, inputs, targets, _ = two_sequences([PIECE], END, IGNORE)
    assert (source.tolist(), inputs.tolist(), targets.tolist()) == ([[1, 2]], [[END, 3]], [[3, 4]])


def test_pieces_follow_each_other_within_a_document():
    found = pieces([[1, 2, 3, 4, 5, 6, 7], [8]], half=2, end=END)
    assert [(pair.source, pair.target) for pair in found] == [([END, 1], [2, 3]), ([4, 5], [6, 7])]
    found = pieces([[1, 2, 3, 4, 5, 6]], half=2, end=END)
    assert [(pair.source, pair.target) for pair in found] == [([END, 1], [2, 3]), ([4, 5], [6])]
    assert torch.equal(one_sequence(found, END, IGNORE)[1], torch.tensor([[IGNORE, 2, 3], [IGNORE, 6, IGNORE]]))

"""The reader that shares no code with the tokenizer gives its ids."""

from finetune.export.plain_reader import PlainTokenizer
from finetune.tokenizer import Tokenizer


def test_every_byte_has_the_letter_of_the_tokenizer(tiny):
    own, plain = Tokenizer.from_directory(tiny), PlainTokenizer(tiny)
    for character in map(chr, [*range(1, 0x250), 0x20AC, 0x4F60, 0x1F98A]):
        assert plain.encode(character) == own.encode(character), hex(ord(character))

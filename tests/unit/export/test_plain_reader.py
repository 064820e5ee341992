"""The reader that shares no code with the tokenizer gives its ids, and the file's tensors."""

import numpy as np
import torch
from safetensors.torch import save_file

from finetune.export.plain_reader import PlainTokenizer, read_tensors
from finetune.tokenizer import Tokenizer


def test_every_byte_has_the_letter_of_the_tokenizer(tiny):
    own, plain = Tokenizer.from_directory(tiny), PlainTokenizer(tiny)
    for character in map(chr, [*range(1, 0x250), 0x20AC, 0x4F60, 0x1F98A]):
        assert plain.encode(character) == own.encode(character), hex(ord(character))


def test_tensors_of_every_kind_are_read_as_torch_reads_them(tmp_path):
    drawn = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    tensors = {str(kind): drawn.to(kind) for kind in (torch.float32, torch.float16, torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy())

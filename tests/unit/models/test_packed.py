"""Packed matrices give what plain ones give, and leave the model as it was."""

import platform

import pytest
import torch
from torch import nn

from finetune.models.gpt import GPT, GPTConfig
from finetune.models.packed import WORTH_IT, PackedLinear, TransposedLinear, can_pack, fast_decoder

pytestmark = pytest.mark.skipif(  # not by can_pack itself, which is tested here
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="no x86 CPU with oneDNN",
)


class Adapted(nn.Linear):
    """Stands for an adapter: it computes something else than its base class."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture
def model():
    """Three blocks of width 32."""
    return GPT(GPTConfig(vocab_size=97, context=80, width=32, layers=3, heads=4)).initialise(1, std=0.2).eval()


@pytest.mark.parametrize(
    "kind, rows, layer",
    [(torch.float32, 3, PackedLinear), (torch.float32, 1, TransposedLinear), (torch.bfloat16, 1, PackedLinear)],
)
def test_the_logits_are_those_of_the_plain_model(model, kind, rows, layer):
    model = model.to(kind)
    if not can_pack(model.token_embedding.weight):
        pytest.skip("no bf16 arithmetic here")
    model.blocks[1].mlp.up.__class__ = Adapted
    twin, ids = fast_decoder(model, rows, WORTH_IT), torch.arange(30).view(3, 10)
    kinds = [type(part) for part in (*twin.model.modules(), twin.output)]
    assert kinds.count(layer) == 3 * 4 - 1 + 1 and kinds.count(Adapted) == 1  # 4 a block, and the output
    with torch.inference_mode():
        for part in (ids, ids[:, :1], ids[:1, :3], ids[:1, :1]):
            expected = model.next_logits(part, model.new_cache(10)).float()
            found = twin.next_logits(part, twin.new_cache(10)).float()
            torch.testing.assert_close(
                found, expected, rtol=0, atol=1e-5 if kind == torch.float32 else 0.02 * expected.abs().max().item()
            )


@pytest.mark.parametrize("rows, layer", [(2, PackedLinear), (1, TransposedLinear)])
def test_a_long_text_is_generated_packed_from_the_weights_there_are(model, monkeypatch, rows, layer):
    used, right = [], layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, x: used.append(1) or right(self, x))
    names, ids = list(model.state_dict()), torch.tensor([[5, 6, 7], [1, 1, 1]])[:rows]
    for _ in range(2):
        expected = ids
        with torch.no_grad():
            for _ in range(WORTH_IT // rows):
                expected = torch.cat([expected, model(expected)[:, -1:].argmax(dim=-1)], dim=1)
        assert not used
        assert model.generate(ids, WORTH_IT // rows, temperature=0).tolist() == expected.tolist() and used
        assert list(model.state_dict()) == names
        used.clear()
        with torch.no_grad():  # what is packed is never older than the model
            model.blocks[0].mlp.down.weight.mul_(-1)
            model.token_embedding.weight.mul_(1.5)
    model.generate(ids, WORTH_IT // rows - 1, temperature=0)
    assert not used
    model.generate(ids[:1], WORTH_IT // 4, beams=4)
    assert bool(used) == (layer is PackedLinear)


def test_the_copy_takes_no_memory_but_that_of_the_packed_matrices(model):
    twin = fast_decoder(model, 2, WORTH_IT).model
    assert twin.token_embedding.weight is model.token_embedding.weight
    assert twin.blocks[0].mlp.up.bias is model.blocks[0].mlp.up.bias and type(model.blocks[0].mlp.up) is nn.Linear


def test_a_machine_without_onednn_packs_nothing(monkeypatch):
    assert can_pack(torch.zeros(2, 2))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not can_pack(torch.zeros(2, 2))


def test_what_cannot_be_packed_is_left_alone():
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64)) and not can_pack(torch.zeros(2, 2, device="meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_pack(torch.zeros(2, 2))

"""What is written beside a seq2seq model's weights: how a source is read, and the README of an encoder-decoder."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune.export.exportable import Exported
from finetune.records import Record

SEQ2SEQ = "seq2seq.json"  # beside weights that write targets


@dataclass(frozen=True)
class SourceUse(Record):
    """What ``seq2seq.json`` holds: how a source is read and its target written."""

    family: str
    max_length: int
    max_new_tokens: int
    beams: int
    length_penalty: float


def encoder_decoder_readme(name: str, said: str, public: bool) -> Callable[[Exported], str]:
    """The README of an encoder-decoder. said: how good it is. public: a class of transformers can hold its shape."""

    def readme(exported: Exported) -> str:
        return "\n".join(
            [
                f"# {name}",
                "",
                "An encoder-decoder by gpt2-finetune: GPT-2's blocks on both sides, the encoder's without "
                "the causal mask, the decoder's with cross-attention.",
                "",
                f"- {said}",
                f"- {exported.summary}",
                "",
                "## Use",
                "",
                '    finetune generate DIRECTORY "a source"',
                "",
                "or from Python:",
                "",
                '    model, tokenizer = finetune.load("DIRECTORY")',
                "    end = tokenizer.end_of_text",
                '    source = torch.tensor([tokenizer.encode("a source")])',
                "    ids = model.generate(source, torch.tensor([[end]]), 64, end=end, temperature=0.0)",
                "",
                *(
                    [
                        "or in transformers, whose Blenderbot has the same function:",
                        "",
                        "    from transformers import AutoTokenizer, BlenderbotForConditionalGeneration",
                        '    tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
                        '    model = BlenderbotForConditionalGeneration.from_pretrained("DIRECTORY")',
                        '    source = tokenizer("a source", return_tensors="pt")',
                        "    print(tokenizer.decode(model.generate(**source)[0], skip_special_tokens=True))",
                        "",
                    ]
                    if public
                    else []
                ),
            ]
        )

    return readme

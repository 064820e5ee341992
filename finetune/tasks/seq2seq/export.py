"""Files exported with a seq2seq model: ``seq2seq.json`` and the README of an encoder-decoder."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune.console import escape_markdown
from finetune.export.exportable import Exported
from finetune.records import Record

SEQ2SEQ = "seq2seq.json"  # stored with the weights of a seq2seq model


@dataclass(frozen=True)
class SourceUse(Record):
    """The content of ``seq2seq.json``: how to truncate a source and generate its target."""

    family: str
    max_length: int
    max_new_tokens: int
    beams: int
    length_penalty: float


def encoder_decoder_readme(name: str, said: str, public: bool) -> Callable[[Exported], str]:
    """The README of an encoder-decoder. said: a sentence with its results. public: transformers has a class for it."""

    def readme(exported: Exported) -> str:
        return "\n".join(
            [
                f"# {escape_markdown(name)}",
                "",
                "An encoder-decoder by gpt2-finetune: both sides are GPT-2 blocks, the encoder's without "
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
                        "or in transformers, whose Blenderbot computes the same function:",
                        "",
                        "    from transformers import AutoTokenizer, BlenderbotForConditionalGeneration",
                        '    tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
                        '    model = BlenderbotForConditionalGeneration.from_pretrained("DIRECTORY")',
                        '    source = tokenizer("a source", truncation=True, return_tensors="pt")',
                        "    print(tokenizer.decode(model.generate(**source)[0], skip_special_tokens=True))",
                        "",
                    ]
                    if public
                    else [
                        "No class of another library has this shape. config.json describes it, and model.safetensors uses "
                        "this project's tensor names.",
                        "",
                    ]
                ),
            ]
        )

    return readme

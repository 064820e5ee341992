"""An encoder-decoder's ``export/hf``: no public class has its shape, so it is read back and compared with itself."""

import shutil

import torch

from finetune.checkpoints.encoder_decoder import load_encoder_decoder, write_encoder_decoder
from finetune.errors import WeightsError
from finetune.export.hf import random_ids
from finetune.files import replace_directory
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.run import Run
from finetune.tokenizer import Tokenizer


def write_seq2seq(run: Run, model: EncoderDecoder, tokenizer: Tokenizer, said: str, files: dict[str, str]) -> dict:
    """Write the directory whole or not at all, with `files` beside the weights. Returns the figures.

    said: what its README says of how good it is. Raises WeightsError where what was written gives other logits.
    """
    draft = run.path("export", ".hf-draft")
    readme = "\n".join([
        f"# {run.name}", "", "An encoder-decoder by gpt2-finetune: GPT-2's blocks on both sides, the encoder's without "
        "the causal mask, the decoder's with cross-attention.", "", f"- {said}", "", "## Use", "",
        "    finetune generate DIRECTORY \"a source\"", "", "or from Python:", "",
        "    model, tokenizer = finetune.load(\"DIRECTORY\")", "    end = tokenizer.end_of_text",
        "    source = torch.tensor([tokenizer.encode(\"a source\")])",
        "    ids = model.generate(source, torch.tensor([[end]]), 64, end=end, temperature=0.0)", "",
        "No class of another library has this shape; config.json has it key by key, and model.safetensors our names.",
        ""])
    try:
        write_encoder_decoder(draft, model, tokenizer, files | {"README.md": readme})
        again, ids = load_encoder_decoder(draft).model, random_ids(model.config)
        with torch.inference_mode():
            difference = float((model.cpu()(ids, ids) - again(ids, ids)).abs().max())
        if difference:
            raise WeightsError("the export gives other logits when it is read back", got=f"{difference:.2e} apart",
                               do="This is a fault of ours: please report it.")
        replace_directory(run.path("export", "hf"), draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return {"compared": True, "max_logit_difference": difference,
            "summary": "read back, the same logits bit for bit; an encoder-decoder's layout is our own"}

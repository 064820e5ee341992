"""Export formats for other libraries, one module each; every export is compared with our own model.

A format's module has ``MERGED``, true if the format needs the adapters merged into the weights, and
``write(thing, directory, base) -> Exported``, which writes a directory completely or not at all.
A format with a list ``QUANTIZED`` takes one of its entries as ``write(..., quantize=KIND)``.
"""

FORMATS = {
    "hf": "finetune.export.hf",
    "peft": "finetune.export.peft",
    "onnx": "finetune.export.onnx",
    "gguf": "finetune.export.gguf",
    "html": "finetune.export.html",
}

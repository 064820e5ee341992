"""Each figure in the prose of the pages is printed by the page's code, recorded by a benchmark, computed here, or nominal."""

import json
import math
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# reference/ is generated; the others have tests of their own, or show made-up rows of tables.
GENERATED = ("reference/", "findings.md", "reliability.md")
PAGES = ["README.md"] + sorted(
    path.relative_to(ROOT).as_posix()
    for path in DOCS.rglob("*.md")
    if not path.relative_to(DOCS).as_posix().startswith(GENERATED)
)
# A link to a section of these makes its figures known; their tables are made of recorded rows.
RECORD = re.compile(r"((?:benchmarks|weights/mini)/README\.md)#([\w-]+)")
NUMBER = re.compile(r"(?<![\w.,^#])(?<!\w-)\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?:\s?%)?(?![\w^])(?!\.\d)")
WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twenty": 20,
}
UNITS = "ms|s|seconds?|minutes?|hours?|bytes|MB|GB|times|rows|texts|messages|tokens|steps"
MEASURED = re.compile(rf"(?<![\w.,^#-])(\d\d?|{'|'.join(WORDS)})\s(?:{UNITS})\b")
# Figures that explain and measure nothing: confidence levels, goals, examples, and what a cited paper says.
NOMINAL = {
    "README.md": ["95 %", "3.12", "2.11"],  # a level; versions of the one GPU machine
    "docs/deploying.md": ["1.5"],  # tests/unit/export/test_html.py holds it
    "docs/explanation/grouped-splits.md": ["50 %"],
    "docs/explanation/resume.md": ["two"],  # minutes of make verify-resume on two cores
    "docs/guides/deciding.md": ["95 %", "2 %", "20 %", "90 %", "ten"],
    "docs/guides/reading-the-report.md": ["95 %", "0.9", "90 %", "nine"],
    "docs/index.md": ["10"],  # hours of a learning path
    "docs/lessons/04-heads-and-masks.md": ["100 %"],
    "docs/lessons/11-kv-cache.md": ["100", "101"],
    "docs/lessons/14-instructions.md": ["100"],
    "docs/lessons/15-architectures.md": ["15 %", "80 %", "10 %"],  # Devlin et al. 2018, section 3.1
    "docs/lessons/16-evaluation.md": ["94 %", "90 %", "nine"],
    "docs/lessons/17-scaling-laws.md": ["400"],  # Hoffmann et al. 2022
    "docs/lessons/18-inverting-embeddings.md": ["92 %"],  # Morris et al. 2023
    "docs/scaling.md": ["40 %", "1e-5"],  # an assumption; and what tests/end_to_end/test_parallel.py holds
}


def rows(name: str) -> list[dict]:
    """The recorded rows of a benchmark."""
    return [json.loads(line) for line in (ROOT / "benchmarks" / name).read_text(encoding="utf-8").splitlines()]


def mini() -> dict:
    """The bundled checkpoint's config.json."""
    return json.loads((ROOT / "weights" / "mini" / "config.json").read_text(encoding="utf-8"))


def vanilla() -> int:
    """Parameters of the first Transformer's shape with one matrix for both embeddings and the output."""
    import torch

    from finetune.models.encoder_decoder import VANILLA, EncoderDecoder

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in EncoderDecoder(VANILLA).parameters())


def untied() -> int:
    """The weights and biases of an output matrix of its own, from 512 to 5,000."""
    return 5000 * 512 + 5000


def bound() -> float:
    """The exact lower bound (Clopper and Pearson 1934) at 90 % for 181 of 197 right."""
    from scipy.stats import beta

    return 100 * float(beta.ppf(0.1, 181, 197 - 181 + 1))


def installed_megabytes(*names: str) -> float:
    """What these packages and all that they need take on disk, by the records of their installation."""
    seen, left = {}, [*names]
    while left:
        if (name := left.pop().lower()) not in seen:
            found = distribution(name)
            seen[name] = sum(file.size or 0 for file in found.files or ())
            left += [re.match(r"[\w.-]+", need)[0] for need in found.requires or () if ";" not in need]
    return sum(seen.values()) / 1e6


def equal_answers() -> int:
    """Questions that llama.cpp answered like us with weights in f32."""
    return sum(row["same"] for row in rows("gguf_answers.jsonl") if row["width"] == "f32")


def largest_difference() -> float:
    """The largest logit difference of all programs that load our exports."""
    return max(found["logits"] for row in rows("export_parity.jsonl") for found in row["programs"].values())


def gpt2_megabytes() -> float:
    """The download of GPT-2 124M."""
    registry = tomllib.loads((ROOT / "weights" / "registry.toml").read_text(encoding="utf-8"))
    return registry["weights"]["gpt2"]["files"]["model.safetensors"]["bytes"] / 1e6


def weights_of_the_lesson() -> int:
    """The weights of the model that lesson 9 trains."""
    from finetune.models.gpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=256, context=32, width=48, layers=2, heads=4))
    return sum(parameter.numel() for parameter in model.parameters())


def lines_of(path: str) -> int:
    """The lines of a bundled sample."""
    return len((ROOT / "data" / path).read_text(encoding="utf-8").splitlines())


def mlp_ratio() -> float:
    """The width within an MLP, in widths of the model."""
    from finetune.models.gpt import MLP, GPTConfig

    up = MLP(GPTConfig()).up
    return up.out_features / up.in_features


def longest_scaling_trial() -> int:
    """Tokens of the longest training that the fit of the scaling law rests on."""
    lines = (ROOT / "weights" / "mini" / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return max(row["tokens"] for row in map(json.loads, lines) if row["name"].startswith("scale"))


def default_rate(method: str, parameters: int = 124_439_808) -> float:
    """The learning rate that a run chooses for pretrained weights."""
    from finetune.recipe import Train
    from finetune.training.trainable import choose_settings

    chosen = choose_settings(Train(method=method), parameters, True, 4000, "cpu")[0].lr
    assert chosen is not None
    return chosen


def highest_usual_rate() -> float:
    """The learning rate above which a run warns."""
    from finetune.training.trainable import HIGHEST_USUAL_LR

    return HIGHEST_USUAL_LR


def smallest_width_in_bf16() -> int:
    """The width from which a run takes bf16 where the machine has it."""
    from finetune.training.precision import BF16_WIDTH

    return BF16_WIDTH


def probe_seconds() -> float:
    """How long a run waits for an answer when it asks whether there is a network."""
    from finetune.hub.fetch import PROBE_SECONDS

    return PROBE_SECONDS


def state_gigabytes(parameters: int) -> float:
    """Weights, gradients and AdamW's two moments in fp32."""
    return 16 * parameters / 1e9


def steps_before_the_scale_doubles() -> int:
    """Steps without an overflow in fp16."""
    from finetune.training.loss_scale import INTERVAL

    return INTERVAL


def python() -> float:
    """The oldest Python that the package takes."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    return float(needed.removeprefix(">="))


def millions() -> float:
    """mini's parameters, in millions."""
    config = mini()
    width, layers = config["n_embd"], config["n_layer"]
    block = 12 * width**2 + 13 * width
    return ((config["vocab_size"] + config["n_positions"]) * width + layers * block + 2 * width) / 1e6


def shared() -> float:
    """The share of the parameters that is left with one block for all layers."""
    found = json.loads((ROOT / "benchmarks" / "variants.json").read_text(encoding="utf-8"))
    count = {row["name"]: row["parameters"] for row in found}
    return count["shared"] / count["learned"]


INTERRUPTED = 128 + 2  # a shell's status for SIGINT
# Figures that follow from the code or from recorded rows.
FACTS = {
    "README.md": {"6.9": millions, "548": gpt2_megabytes, "3.11": python},
    "docs/deploying.md": {
        "4e-6": lambda: max(4e-6, largest_difference()),
        "166": lambda: 124_439_808 * 4 / 3 / 1e6,  # four characters of base64 for three bytes
        "150": lambda: max(150, installed_megabytes("numpy", "tiktoken", "onnxruntime")),
        "598": equal_answers,
        "600": lambda: 6 * 100,
    },
    "docs/explanation/questions.md": {
        "46.7": lambda: vanilla() / 1e6,
        "49,265,544": lambda: vanilla() + untied(),
        "5,000": lambda: 5000,
        "512": lambda: 512,
        "2,565,000": untied,
    },
    "docs/explanation/resume.md": {"130": lambda: INTERRUPTED},
    "docs/glossary.md": {"1.44": lambda: 1 / math.log(2)},
    "docs/guides/deciding.md": {"88.8 %": bound, "91.9 %": lambda: 100 * 181 / 197, "197": lambda: 197},
    "docs/guides/gpu.md": {"256": smallest_width_in_bf16, "2,000": steps_before_the_scale_doubles},
    "docs/guides/instructions.md": {"425": lambda: lines_of("instruct/sample.jsonl")},
    "docs/guides/offline.md": {"three": probe_seconds},
    "docs/guides/pretraining.md": {"0.3": shared},
    "docs/guides/troubleshooting.md": {"130": lambda: INTERRUPTED, "0.1": highest_usual_rate},
    "docs/guides/which-settings.md": {
        "1e-3": lambda: default_rate("head"),
        "1e-4": lambda: default_rate("full"),
        "4e-4": lambda: default_rate("lora"),
    },
    "docs/lessons/01-tokens.md": {"256": lambda: 2**8},
    "docs/lessons/04-heads-and-masks.md": {"256": lambda: mini()["n_embd"]},
    "docs/lessons/05-residuals-norms-mlp.md": {"four": mlp_ratio},
    "docs/lessons/08-loss.md": {"8,192": lambda: mini()["vocab_size"], "9.01": lambda: math.log(mini()["vocab_size"])},
    "docs/lessons/09-training.md": {"70,000": lambda: round(weights_of_the_lesson(), -4)},
    "docs/lessons/13-lora.md": {"four": lambda: default_rate("lora") / default_rate("full")},
    "docs/lessons/15-architectures.md": {"6.9": millions},
    "docs/lessons/17-scaling-laws.md": {"seven": lambda: 7_372_652 / longest_scaling_trial()},
    "docs/lessons/18-inverting-embeddings.md": {"8,192": lambda: mini()["vocab_size"], "256": lambda: mini()["n_embd"]},
    "docs/lessons/index.md": {"6.9": millions, "8,192": lambda: mini()["vocab_size"], "256": lambda: mini()["n_embd"]},
    "docs/scaling.md": {
        "130": lambda: INTERRUPTED,
        "16": lambda: 4 * 4,
        "2": lambda: state_gigabytes(124_439_808),
        "25": lambda: state_gigabytes(1_557_611_200),
    },
    "docs/start.md": {"548": gpt2_megabytes, "982": lambda: lines_of("spam/sample.tsv") - 1, "3.11": python},
}


def prose(page: str) -> str:
    """The page without code, links' addresses and its list of sources."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "docs/scaling.md":  # its table is made by benchmarks/scaling.py, and has a test there
        text = re.sub(r"^\|.*\|$", "", text, flags=re.M)
    text = re.sub(r"^ *```.*?^ *```|^    .*?$|`[^`\n]*`", "", text, flags=re.M | re.S)
    text = re.sub(r"^Sources: .*?(?:\n\n|\Z)", "", text, flags=re.M | re.S)
    return re.sub(r"\[arXiv:[^\]]*\]|\]\([^)]*\)", "", text)


def figures(page: str) -> Iterator[str]:
    """The numbers in prose that could be measured: with decimals, percent, three digits or a unit; years are left out."""
    yield from MEASURED.findall(prose(page))
    for number in NUMBER.findall(prose(page)):
        number = number.strip(",")
        if not re.fullmatch(r"(19|20)\d\d", number) and (re.search(r"[.e%]", number) or value(number) >= 100):
            yield number


def value(number: str) -> float:
    return WORDS[number] if number in WORDS else float(number.replace(",", "").rstrip("% "))


def rounds_to(exact: float, printed: str) -> bool:
    """Whether an exact figure, rounded as far as the printed one is, gives it."""
    if printed in WORDS:
        return round(exact) == WORDS[printed]
    mantissa, _, exponent = printed.rstrip("% ").replace(",", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(exact - value(printed)) <= 0.5001 * unit


def known(page: str) -> list[float]:
    """The numbers of the page's blocks of code and of the recorded sections that it links to."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, flags=re.M | re.S)
    sections = [section(name, anchor) for name, anchor in set(RECORD.findall(text))]
    return [value(number.strip(",")) for part in blocks + sections for number in NUMBER.findall(part)]


def section(name: str, anchor: str) -> str:
    """A section of a page, found by its heading's anchor."""
    parts = re.split(r"^#+ (.+)$", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)
    anchors = {
        re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower())): body
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    return anchors[anchor]


@pytest.mark.parametrize("page", PAGES)
def test_figures_in_prose_are_printed_recorded_or_computed(page):
    exact = known(page)
    named = {*NOMINAL.get(page, []), *FACTS.get(page, {})}
    unheld = [
        number
        for number in figures(page)
        if number not in named and not any(rounds_to(figure, number) for figure in exact)
    ]
    assert not unheld, unheld


@pytest.mark.parametrize("page", FACTS)
def test_figures_that_follow_from_the_code_do(page):
    wrong = {number: compute() for number, compute in FACTS[page].items() if not rounds_to(compute(), number)}
    assert not wrong, wrong


def test_quick_start_shows_what_was_recorded():
    found = json.loads((ROOT / "benchmarks" / "quick_start.json").read_text(encoding="utf-8"))
    readme, start = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/start.md"))
    assert all(f"\n    {line}\n" in readme for line in found["table"])
    *shown, wrong = [line.expandtabs() for line in found["answers"]]
    assert "\n".join(f"    {line}" for line in shown) in readme and "\n".join(shown) in start
    assert wrong.split()[0] == "ham" and 'misclassifies "You have won a prize, call now" as ham' in readme


def test_no_figure_is_listed_here_that_no_page_shows():
    listed = [
        (page, number) for page in {*FACTS, *NOMINAL} for number in (*FACTS.get(page, {}), *NOMINAL.get(page, []))
    ]
    gone = [(page, number) for page, number in listed if number not in set(figures(page))]
    assert not gone, gone


def test_a_rounded_figure_is_told_from_a_wrong_one():
    assert rounds_to(0.0788, "0.08") and rounds_to(134.6, "135") and rounds_to(2.9e-6, "3e-6") and rounds_to(63, "63 %")
    assert not rounds_to(0.0788, "0.07") and not rounds_to(87.6, "134.6") and not rounds_to(2.9e-6, "2e-6")

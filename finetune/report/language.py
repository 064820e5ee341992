"""The report's sections for a language model."""

from finetune.report.blocks import NONE, Section, Table, Text

NAMES = {"bits_per_byte": "Bits per byte", "perplexity": "Perplexity", "log_loss": "Loss (nats a token)"}


def verdict(evaluation: dict) -> str:
    """What the numbers say, in one to three sentences."""
    headline, before = evaluation["headline"], evaluation["before"]["val"]["bits_per_byte"]["value"]
    said = (f"{headline['value']:.3f} bits per byte on held-out text ({headline['low']:.3f} to {headline['high']:.3f}; "
            f"{headline['n']:,} blocks), {before:.3f} before training.")
    best = min((entry["bits_per_byte"] for entry in evaluation["compressors"]), default=None)
    if best is not None:
        ratio = headline["value"] / best
        said += (f" General compressors need {best:.3f} on the same text: the model takes {ratio:.0%} of that."
                 if ratio < 1 else f" A general compressor needs only {best:.3f}: the model has learnt little yet.")
    return said


def tiles(evaluation: dict) -> list[dict]:
    """The figures at the top."""
    metrics = evaluation["metrics"]
    return [{"name": name, "value": f"{metrics[key]['value']:.3f}" if key != "perplexity" else
             f"{metrics[key]['value']:,.1f}", "interval": _interval(metrics[key]),
             "note": f"held-out text, {metrics[key]['n']:,} blocks"} for key, name in NAMES.items()]


def before_and_after(evaluation: dict) -> Section:
    """Every measured text before and after training."""
    rows = []
    for part, metrics in evaluation["after"].items():
        name = {"val": "held-out text", "eval": "the evaluation file"}.get(part, part)
        for key in NAMES:
            rows.append([f"{name}: {NAMES[key]}", _cell(evaluation["before"][part][key]), _cell(metrics[key])])
    table = Table("With 95 % intervals over blocks", ["", "Before", "After"], rows, frozenset({1, 2}))
    return Section("results", "Before and after", [table, Text(
        "Bits per byte can be compared over tokenizers and models; perplexity and loss are per token, and so only "
        "compare under the same vocabulary.", small=True)])


def sources(evaluation: dict) -> list[Section]:
    """Each source's held-out text, beside compressors."""
    if not evaluation["sources"]:
        return []
    names = [entry["name"] for entry in evaluation["sources"][0]["compressors"]]
    rows = [[entry["name"], f"{entry['bytes']:,}", f"{entry['before']:.3f}", f"{entry['after']:.3f}",
             *(f"{packed['bits_per_byte']:.3f}" for packed in entry["compressors"])] for entry in evaluation["sources"]]
    table = Table("Bits per byte of each source's held-out text", ["Source", "Bytes", "Before", "After", *names], rows,
                  frozenset(range(1, 4 + len(names))))
    return [Section("sources", "Sources", [table, Text(
        "The compressors see each text alone and have learnt nothing before it; on a few kilobytes they are at their "
        "worst.", small=True)])]


def samples(evaluation: dict) -> Section:
    """Continuations before and after, side by side."""
    rows = [[entry["prompt"], entry["before"], entry["after"]] for entry in evaluation["samples"]]
    how = evaluation["sampling"]
    table = Table(f"Held-out beginnings, continued at temperature {how['temperature']:g}, top-k {how['top_k']}, seed "
                  f"{how['seed']}", ["Beginning", "Before", "After"], rows, headed=False)
    return Section("samples", "Samples", [table] if rows else [Text("No held-out text is long enough to continue.")])


def _cell(entry: dict) -> str:
    return f"{entry['value']:,.3f}\n({_interval(entry)})"


def _interval(entry: dict) -> str:
    return f"{entry['low']:,.3f} to {entry['high']:,.3f}" if entry["low"] is not None else NONE

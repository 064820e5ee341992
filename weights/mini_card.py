"""The card of weights/mini: every number from the training log, the figures and the trials that are kept beside it."""

import json
import math
from pathlib import Path

import numpy as np

from finetune.recipe import Train

HERE = Path(__file__).parent / "mini"
# Each source with its licence; weights/mini was trained on nothing else.
SOURCES = {
    "c4_sample": ("web pages, C4 sample", "ODC-BY"),
    "devils_dictionary_jargon": ("The Devil's Dictionary and the Jargon File", "public domain"),
    "dialogues_sgd": ("Schema-Guided Dialogue, task dialogues", "CC BY-SA 4.0"),
    "fortunes": ("short quotations, Debian's fortunes", "BSD"),
    "mailing_list_ham": ("public mailing lists of 2002, the ham of SpamAssassin's corpus", "PDDL 1.0 / CC0 1.0"),
    "masc": ("MASC: blogs, mail, letters, news, transcripts", "open, any use"),
    "novels_1830-1930": ("English novels, 1830 to 1930", "public domain"),
    "openstax_textbooks": ("OpenStax textbooks, before the licence change of 2026", "CC BY 4.0"),
    "tatoeba_english": ("Tatoeba, English sentences", "CC BY 2.0"),
    "tinyshakespeare": ("Shakespeare (held-out text only)", "public domain"),
    "us_presidents_speeches": ("speeches of US presidents", "public domain"),
    "wikipedia_mixed": ("paragraphs of English Wikipedia", "CC BY-SA 3.0/4.0"),
    "wordnet_glosses": ("WordNet 3.0 glosses", "WordNet licence"),
    "carpentries_html_posts": ("posts of the Software Carpentry blog, 2009 to 2018", "CC BY 4.0"),
    "childrens_stories": ("children's stories, StoryWeaver and African Storybook", "CC BY / CC0"),
    "design_proposals_md": ("design proposals of Rust, Swift and Ethereum", "MIT/Apache-2.0, Apache-2.0, CC0"),
    "desktop_and_admin_help": ("GNOME's help and the Debian Administrator's Handbook", "CC BY-SA 3.0"),
    "developer_guides": ("guides and manuals for developers", "CC BY 4.0, MIT/Apache-2.0, CC BY-SA"),
    "dialogues_chitchat": ("chats of students, BYU Chit-Chat", "MIT"),
    "dialogues_persona_synthetic": ("Synthetic-Persona-Chat, conversations written by a model", "CC BY 4.0"),
    "dialogues_task": ("task dialogues, Taskmaster-4 and MultiWOZ", "CC BY 4.0, MIT"),
    "dialogues_topical_chat": ("Topical-Chat, conversations about topics", "CDLA-Sharing 1.0"),
    "fomc_minutes_statements": ("minutes of the Federal Open Market Committee", "US government work"),
    "govuk_guidance": ("guidance of the UK's Government Digital Service and ONS", "OGL 3.0, MIT"),
    "health_medquad": ("MedQuAD, questions and answers about health", "CC BY 4.0"),
    "news_wikinews": ("Wikinews, 2019 and 2020", "CC BY 2.5"),
    "open_project_blogs": ("blogs of open-source projects", "MIT/Apache-2.0, CC BY 4.0"),
    "openstax_textbooks_2": ("further OpenStax textbooks", "CC BY 4.0"),
    "python_enhancement_proposals": ("Python Enhancement Proposals", "public domain / CC0"),
    "recipes_public_domain": ("recipes", "public domain"),
    "stackexchange_small_sites": ("Stack Exchange, questions and answers of small sites", "CC BY-SA 3.0/4.0"),
    "standard_ebooks_20th_century": ("Standard Ebooks, 20th century", "public domain in the USA, CC0"),
    "usgov_websites": ("web sites of the US government", "US government work / CC0"),
    "whitehouse_remarks_2009-2015": ("remarks at the White House, 2009 to 2015", "US government work"),
    "wikipedia_english": ("articles of English Wikipedia", "CC BY-SA 3.0"),
    "world_factbook": ("The World Factbook", "public domain / CC0"),
}


AIM = 0.85  # of the bits that bz2 needs for the same text


def read_rows(path: Path) -> list[dict]:
    """The lines of a training log or of the trials; none where there is no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def card_text(figures: dict, log: list[dict], trials: list[dict]) -> str:
    """The card as Markdown."""
    steps = [entry for entry in log if "loss" in entry]
    seen = sum(entry["tokens"] for entry in steps if entry["step"] <= figures["best_step"])
    shape, train = figures["recipe"]["shape"], Train.model_validate(figures["recipe"]["train"])
    total = sum(source["train"]["tokens"] for source in figures["sources_read"].values())
    all_texts = figures["after"]["val"]["bits_per_byte"]
    curve = [
        f"| {entry['step']:,} | {entry['validation']['log_loss']:.3f} | {entry['validation']['bits_per_byte']:.3f} |"
        for entry in log
        if "validation" in entry
    ]
    samples = [
        f"> {sample['prompt'].strip()} **{sample['after'].strip()}**".replace("\n", " ")
        for sample in figures["samples"]
    ]
    return "\n".join(
        [
            "# mini",
            "",
            f"A small GPT-2, pretrained from scratch by this project's `pretrain-mini`: {shape['layers']} layers, width "
            f"{shape['width']}, {shape['heads']} heads, context {shape['context']}, its own byte-level BPE, weights "
            "in fp16. Every pipeline starts from it if GPT-2 is not available.",
            "",
            f"It was trained on {seen:,} tokens, {seen / total:.0%} of one epoch of the text below, in {figures['best_step']:,} "
            f"steps of {train.batch_size} sequences with {train.optimizer} (peak rate {train.lr:g}), in "
            f"{steps[-1]['seconds'] / 60:.0f} minutes on {_threads(train.threads)}, {train.precision}. That is very "
            "little: GPT-2 was trained on about a thousand times as much.",
            "",
            "## Data",
            "",
            "| source | what | licence | share of the tokens |",
            "|---|---|---|---|",
            *_sources_read(figures, total),
            "",
            *_excluded(figures),
            "The weights have the licence CC BY-SA 4.0, the strictest of these licences. The SMS Spam Collection is not among "
            "the sources.",
            "",
            "## Bits per byte",
            "",
            f"Held-out text in all: {all_texts['value']:.3f} (95 % interval {all_texts['low']:.3f} to "
            f"{all_texts['high']:.3f}). The compressors compress each text separately.",
            "",
            *_bits(figures),
            "",
            "## Training",
            "",
            "![Training loss and held-out loss by training tokens](training.png)",
            "",
            "| step | validation loss (nats per token) | bits per byte |",
            "|---:|---:|---:|",
            *curve,
            "",
            "The log of every step is in train.jsonl, the figures are in figures.json, the trials in trials.jsonl; "
            "`weights/make_mini.py` wrote this card from them.",
            "",
            *_trials(trials),
            "## Samples",
            "",
            "Beginnings of held-out texts, continued at temperature 0.8, top-k 50:",
            "",
            *[line for sample in samples for line in (sample, "")],
            "## Limits",
            "",
            "English only. Its sentences look like English but mean nothing; it knows no facts and follows no "
            "instructions. It is a starting point for fine-tuning on a laptop.",
            "",
        ]
    )


def _threads(count: int) -> str:
    return "one CPU thread" if count == 1 else f"{count} CPU threads" if count else "all CPU cores"


def _sources_read(figures: dict, total: int) -> list[str]:
    return [
        f"| {name} | {SOURCES[name][0]} | {SOURCES[name][1]} | {source['train']['tokens'] / total:.1%} |"
        for name, source in figures["sources_read"].items()
    ]


def _excluded(figures: dict) -> list[str]:
    """The documents left out because they contain rows of evaluation sets; empty if none were searched for."""
    if not (found := figures.get("excluded")):
        return []
    by_source = [
        f"{name} {source['excluded']:,}" for name, source in figures["sources_read"].items() if source["excluded"]
    ]
    return [
        f"{found['documents']:,} documents are left out: each contains at least half of the word 8-grams of one of "
        f"{found['rows']:,} rows of evaluation sets, or, as a line, a shorter row of at least 3 words: "
        f"{', '.join(by_source)}.",
        "",
    ]


def _bits(figures: dict) -> list[str]:
    """The table of texts, and the sentence about those where the aim is missed."""
    rows = [(entry["name"], entry["bytes"], entry["after"], entry["compressors"]) for entry in figures["sources"]]
    rows += [
        (f"{name} (never seen)", entry["bytes"], figures["after"][name]["bits_per_byte"]["value"], entry["compressors"])
        for name, entry in figures["texts"].items()
    ]
    missed = [name for name, _, own, packed in rows if own > AIM * packed[0]["bits_per_byte"]]
    return [
        "| text | bytes | mini | bz2 -9 | xz -9e |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {size:,} | {own:.3f} | {packed[0]['bits_per_byte']:.3f} | {packed[1]['bits_per_byte']:.3f} |"
            for name, size, own, packed in rows
        ),
        *(
            [
                "",
                f"The aim is at most {AIM} of bz2's bits. It is missed on {', '.join(missed)}: it needs more "
                "training, and more such text.",
            ]
            if missed
            else []
        ),
    ]


def _trials(trials: list[dict]) -> list[str]:
    if not trials:
        return []
    text = next(key for key in trials[0] if key.startswith("wikitext"))
    table = [
        f"| {row['name']} | {row['layers']} x {row['width']} | {row['parameters'] / 1e6:.1f} M | "
        f"{row['optimizer']} {row['lr']:g} | {row['batch_size']} | {row['mix']} | {row['tokens']:,} | "
        f"{row['held_out']:.3f} | {row[text]:.3f} |"
        for row in trials
    ]
    scale = scaling(trials)
    fitted = (
        []
        if scale is None
        else [
            "",
            "![Bits per byte by parameters and by tokens, with the fit](scaling.png)",
            "",
            f"The trials named scale, fitted: bits per byte = {scale['factor']:.2f} x parameters^{scale['parameters']:.3f} "
            f"x tokens^{scale['tokens']:.3f}, with a largest error of {scale['worst']:.1%}. It holds inside the range of "
            "the trials; parameters count the embeddings.",
        ]
    )
    return [
        "## Trials before the training",
        "",
        "Small runs on one CPU thread, one seed each, all measured on the same held-out documents (the mean over "
        "the sources) and on a text that was in no training set. With one seed, a difference of a hundredth means nothing. "
        "`weights/mini_trials.py` runs them.",
        "",
        "| trial | layers x width | parameters | optimizer, rate | batch | mix | tokens | held out, bits per "
        f"byte | {text} |",
        "|---|---|---:|---|---:|---|---:|---:|---:|",
        *table,
        *fitted,
        "",
    ]


def scale_rows(trials: list[dict]) -> list[dict]:
    """The trials that differ in size and tokens only."""
    same = ("optimizer", "lr", "batch_size", "mix")
    like = next((row for row in trials if row["name"].startswith("scale")), None)
    return [
        row
        for row in trials
        if like
        and all(row[key] == like[key] for key in same)
        and row["layers"] * 48 > row["width"] > row["layers"] * 24
    ]


def scaling(trials: list[dict]) -> dict | None:
    """Least squares of log(bits) on log(parameters) and log(tokens); none for fewer than five trials."""
    rows = scale_rows(trials)
    if len(rows) < 5:
        return None
    inputs = np.array([[1.0, math.log(row["parameters"]), math.log(row["tokens"])] for row in rows])
    bits = np.array([math.log(row["held_out"]) for row in rows])
    found = np.linalg.lstsq(inputs, bits, rcond=None)[0]
    worst = float(np.abs(np.exp(inputs @ found - bits) - 1).max())
    return {"factor": math.exp(found[0]), "parameters": float(found[1]), "tokens": float(found[2]), "worst": worst}


def draw(log: list[dict], trials: list[dict]) -> None:
    """training.png and scaling.png beside the card."""
    from matplotlib.figure import Figure

    steps = [entry for entry in log if "loss" in entry]
    tokens = np.cumsum([entry["tokens"] for entry in steps]) / 1e6
    by_step = dict(zip((entry["step"] for entry in steps), tokens, strict=True))
    loss, window = np.array([entry["loss"] for entry in steps]), 20
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        tokens[window - 1 :],
        np.convolve(loss, np.ones(window) / window, "valid"),
        color="#9db8d2",
        label=f"training, mean of {window} steps",
    )
    held = [(by_step[entry["step"]], entry["validation"]["log_loss"]) for entry in log if "validation" in entry]
    axes.plot(*zip(*held, strict=True), "o-", color="#1d5f9e", markersize=3, label="held out")
    axes.set(xlabel="tokens read, millions", ylabel="nats per token", ylim=(None, 8))
    axes.legend(frameon=False)
    figure.savefig(HERE / "training.png", dpi=110)
    if fit := scaling(trials):
        rows = scale_rows(trials)
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        for axes, own, other, unit in zip(
            figure.subplots(1, 2, sharey=True),
            ("tokens", "parameters"),
            ("parameters", "tokens"),
            ("M parameters", "k tokens"),
            strict=True,
        ):
            groups = sorted({row[other] for row in rows})
            for group, color in zip(groups, ("#b4561b", "#6b6f76", "#1d5f9e", "#3f8f5f"), strict=False):
                points = sorted((row[own], row["held_out"]) for row in rows if row[other] == group)
                xs = np.array([x for x, _ in points], dtype=float)
                label = f"{group / 1e6:.1f} {unit}" if other == "parameters" else f"{group / 1024:,.0f} {unit}"
                axes.plot(xs, [y for _, y in points], "o", color=color, label=label)
                axes.plot(xs, fit["factor"] * xs ** fit[own] * float(group) ** fit[other], color=color, linewidth=1)
            axes.set(xscale="log", yscale="log", xlabel=f"{own}, millions")
            axes.set_xticks(ticks := sorted({row[own] for row in rows}), [f"{tick / 1e6:.2g}" for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.yaxis.set_minor_formatter("{x:.2f}")
            axes.legend(frameon=False, fontsize=8)
        figure.axes[0].set_ylabel("held out, bits per byte")
        figure.savefig(HERE / "scaling.png", dpi=110)

"""Measure sample.jsonl: sizes, repetition, and whether the answers that can be checked by a rule are right."""

import json
import re
import runpy
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = runpy.run_path(str(HERE.parent / "card_figures.py"))
LIMITS = {
    "pairs": (320, float("inf")),
    "output_words_max": (1, 15),
    "near_duplicates_pct": (0, 3),
    "most_frequent_instruction": (1, 2),
    "most_frequent_output_pct": (0, 8),
}


def words(text):
    return re.findall(r"[^\W_]+", text)


def stands_in(text, output):
    return set(words(output)) <= set(words(text))


RULES = {  # kind -> whether an output is right, as far as that can be seen from the text (instruction and input)
    "upper case": lambda text, output: output.isupper() and output.lower() in text.lower(),
    "lower case": lambda text, output: output.islower() and output in text.lower(),
    "spell": lambda text, output: all(len(part) == 1 for part in output.split()) and output.replace(" ", "") in text,
    "reverse": lambda text, output: " ".join(reversed(output.split())) in text and len(output.split()) == 3,
    "count": lambda text, output: output.isdigit(),
    "yes or no": lambda text, output: output in ("yes", "no"),
    **dict.fromkeys(("name", "number", "city", "day", "colour", "first or last"), stands_in),
}


def read_sample(path):
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = [
        pair
        for pair in pairs
        if list(pair) != ["kind", "instruction", "input", "output"]
        or any(value != value.strip() for value in pair.values())
        or not (pair["instruction"] and pair["output"])
        or not RULES.get(pair["kind"], lambda *_: True)(f"{pair['instruction']} {pair['input']}", pair["output"])
    ]
    if wrong:
        raise SystemExit("\n".join(f"malformed or wrong: {pair}" for pair in wrong))
    return pairs


def measure(pairs):
    instructions, outputs = ([pair[name] for pair in pairs] for name in ("instruction", "output"))
    asked = [f"{pair['instruction']} {pair['input']}".strip() for pair in pairs]
    size = {
        name: np.array([len(text.split()) for text in texts])
        for name, texts in (("instruction_and_input", asked), ("output", outputs))
    }
    copied = np.mean([stands_in(text.lower(), output.lower()) for text, output in zip(asked, outputs, strict=True)])
    (_, often), (_, repeated) = (Counter(texts).most_common(1)[0] for texts in (outputs, instructions))
    kinds = Counter(pair["kind"] for pair in pairs)
    return {
        "pairs": len(pairs),
        "without_input": sum(not pair["input"] for pair in pairs),
        **{
            f"{name}_words_{what}": int(of(sizes))
            for name, sizes in size.items()
            for what, of in (("min", np.min), ("median", np.median), ("max", np.max))
        },
        "different_instructions": len(set(instructions)),
        "most_frequent_instruction": repeated,
        "different_outputs": len(set(outputs)),
        "most_frequent_output_pct": round(100 * often / len(pairs), 1),
        "output_stands_in_the_question_pct": round(100 * float(copied), 1),
        "near_duplicates_pct": round(
            100
            * float(
                SHARED["near_duplicates"]([f"{text} {output}" for text, output in zip(asked, outputs, strict=True)])
            ),
            1,
        ),
        **{f"kind: {kind}": kinds[kind] for kind in sorted(kinds)},
    }


if __name__ == "__main__":
    SHARED["print_and_check"](lambda: measure(read_sample(HERE / "sample.jsonl")), LIMITS, HERE / "card.md", __doc__)

"""ROUGE (Lin 2004) by the library rouge-score, for words of any script."""

import re

NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}  # ours -> the library's


def rouge(outputs: list[str], references: list[str], names: tuple[str, ...] = tuple(NAMES)) -> dict[str, list[float]]:
    """Name -> the F1 of each output: of the words (rouge_1), the pairs of words (rouge_2) and the longest common
    subsequence of words (rouge_l) that it shares with its reference. Words are runs of letters and digits.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([NAMES[name] for name in names], tokenizer=_Words())
    scores = [scorer.score(reference, output) for output, reference in zip(outputs, references, strict=True)]
    return {name: [score[NAMES[name]].fmeasure for score in scores] for name in names}


class _Words:
    """rouge-score's own tokenizer drops every letter outside a to z."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())

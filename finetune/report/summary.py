"""The results of runs as plain tables for the screen."""


def classifier_table(evaluation: dict) -> list[str]:
    """The model and its baselines, a line each, with 95 % intervals."""
    names = [name for name in ("accuracy", "f1", "f1_macro", "roc_auc") if name in evaluation["metrics"]]
    if "f1" in names:
        names.remove("f1_macro")
    rows = [(f"{evaluation['weights']['name']}, {evaluation['method']}", evaluation["metrics"], "")]
    rows += [(baseline["name"], baseline["metrics"], f"{baseline['p_value']:.3g}")
             for baseline in evaluation["baselines"]]
    table = [["", *names, "McNemar p"]]
    table += [[name, *(_cell(metrics[metric]) for metric in names), p] for name, metrics, p in rows]
    n = evaluation["headline"]["n"]
    return [f"test rows: {n:,}; 95 % intervals in brackets", *_aligned(table)]


def language_table(evaluation: dict) -> list[str]:
    """A language model before and after."""
    rows = [["bits per byte", "before", "after"]]
    for part in evaluation["after"]:
        name = "held-out text" if part == "val" else "evaluation text"
        rows.append([name, *(_cell(evaluation[state][part]["bits_per_byte"]) for state in ("before", "after"))])
    rows += [[entry["name"], "", f"{entry['bits_per_byte']:.4f}"] for entry in evaluation["compressors"]]
    return _aligned(rows)


def answers_table(evaluation: dict) -> list[str]:
    """A model's answers and those of its baselines."""
    names = {"identical": "exact match", "rouge_l": "ROUGE-L", "log_loss": "loss"}
    metrics = evaluation["metrics"]
    return [f"test records: {metrics['rouge_l']['n']:,}, {metrics['identical']['n']:,} of them with a short answer "
            "(for exact match); 95 % intervals in brackets", *_beside_baselines(evaluation, names)]


def targets_table(evaluation: dict) -> list[str]:
    """A model's outputs and those of its baselines."""
    names = {"exact_match": "exact match", "bleu": "BLEU", "chrf": "chrF", "log_loss": "loss"}
    headline = evaluation["headline"]
    name = names.get(headline["metric"], headline["metric"])
    return [f"test pairs: {headline['n']:,}; 95 % intervals in brackets; p is that of {name}",
            *_beside_baselines(evaluation, names)]


def _beside_baselines(evaluation: dict, names: dict[str, str]) -> list[str]:
    """The model and its baselines, a line each. names: metric -> what its column is called."""
    rows = [["", *names.values(), "p"]]
    own = {"name": f"{evaluation['weights']['name']}, {evaluation['method']}", "metrics": evaluation["metrics"],
           "p_value": None}
    for entry in (own, *evaluation["baselines"]):
        rows.append([entry["name"], *(_cell(entry["metrics"][name]) if name in entry["metrics"] else ""
                                      for name in names),
                     "" if entry["p_value"] is None else f"{entry['p_value']:.3g}"])
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(metric: dict) -> str:
    if metric["value"] is None:
        return "not defined"
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"

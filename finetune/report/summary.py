"""The result of a run as a plain table for the screen."""


def result_table(evaluation: dict) -> list[str]:
    """The model and its baselines, a line each, with 95 % intervals; or a language model before and after."""
    if evaluation["task"] == "pretrain":
        return _language_table(evaluation)
    names = [name for name in ("accuracy", "f1", "f1_macro", "roc_auc") if name in evaluation["metrics"]]
    if "f1" in names:
        names.remove("f1_macro")
    rows = [(f"{evaluation['weights']['name']}, {evaluation['method']}", evaluation["metrics"], "")]
    rows += [(baseline["name"], baseline["metrics"], f"{baseline['p_value']:.3g}")
             for baseline in evaluation["baselines"]]
    table = [["", *names, "McNemar p"]]
    table += [[name, *(_cell(metrics[metric]) for metric in names), p] for name, metrics, p in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    n = evaluation["headline"]["n"]
    return [f"test rows: {n:,}; 95 % intervals in brackets", *lines]


def _cell(metric: dict) -> str:
    if metric["value"] is None:
        return "not defined"
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"


def _language_table(evaluation: dict) -> list[str]:
    rows = [["bits per byte", "before", "after"]]
    for part in evaluation["after"]:
        name = "held-out text" if part == "val" else "evaluation text"
        rows.append([name, *(_cell(evaluation[state][part]["bits_per_byte"]) for state in ("before", "after"))])
    rows += [[entry["name"], "", f"{entry['bits_per_byte']:.4f}"] for entry in evaluation["compressors"]]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

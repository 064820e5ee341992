"""Several trainings on one split, on one page, each comparison in a folder of its own. The list imports nothing."""

COMPARISONS = ("methods", "architectures", "folds")

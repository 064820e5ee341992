"""Comparisons: several trainings on one split in one report, each in its own folder. This module imports nothing."""

COMPARISONS = ("methods", "architectures", "folds", "learning_curve")

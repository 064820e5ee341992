"""The list of tasks, each in its own folder. This module imports nothing."""

TASKS = ("classify", "instruct", "seq2seq", "tag", "pretrain")

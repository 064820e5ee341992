"""The tasks: what can be learnt, each in a folder of its own. The one list of them; it imports nothing."""

TASKS = ("classify", "instruct", "seq2seq", "tag", "pretrain")

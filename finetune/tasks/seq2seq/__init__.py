"""The task ``seq2seq``: write the target of a source."""

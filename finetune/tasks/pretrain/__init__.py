"""The task ``pretrain``: predict the next token of plain text."""

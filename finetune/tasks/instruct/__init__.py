"""The task ``instruct``: answer an instruction."""

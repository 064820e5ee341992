"""The task ``tag``: find the names in a sentence, and say of which kind each is (token classification)."""

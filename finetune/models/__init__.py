"""The models: GPT-2 from scratch, and the heads that stand on it."""

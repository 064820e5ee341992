"""The models: GPT-2 from scratch, and its task heads."""

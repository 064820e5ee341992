"""Compare all fine-tuning methods on one split, with several seeds."""

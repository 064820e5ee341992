"""Training: one loop for every task, with bit-exact resume from any step."""

"""Training: one loop for every task, and all it needs to stop anywhere and go on with the same bits."""

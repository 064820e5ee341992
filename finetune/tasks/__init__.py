"""Tasks: what is learnt, in the same few functions each."""

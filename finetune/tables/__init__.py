"""Data: read, checked, split and batched."""

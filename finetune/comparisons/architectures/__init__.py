"""Encoder, decoder and encoder-decoder of equal size on the same tasks."""

"""Exports: formats that other programs read, each compared with our own model."""

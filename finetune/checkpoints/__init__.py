"""Checkpoints on disk: always Hugging Face's layout, always safetensors."""

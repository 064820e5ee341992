"""The task ``length``: whether a text is a long one. A whole task in one folder, for the test that this is enough."""

"""The command ``serve``: a local page and a REST interface for one model. Needs the extra serve."""

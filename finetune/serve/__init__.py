"""The command ``serve``: a local page and a REST API for one model. Needs the extra serve."""

"""The report of a run: one HTML page and one Markdown file, made from the run's files alone."""

"""The variant of ``classify`` for rows with any number of labels: its own loss, scores and page."""

"""The form of ``classify`` for rows with any number of labels: the loss, the scores and the page that differ."""

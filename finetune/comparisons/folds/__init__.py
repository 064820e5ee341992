"""K-fold cross-validation of a classifier: every row is predicted once, by a model not trained on it."""

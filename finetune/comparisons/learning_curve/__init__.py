"""A learning curve: the classifier and TF-IDF trained on growing parts of the rows, and an extrapolation."""

"""The task ``classify``: a text belongs to one of K labels."""

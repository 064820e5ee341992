"""Several trainings on one split, on one page."""

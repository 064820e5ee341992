"""Pictures for learners, drawn from the models' own functions and tensors."""

"""Pictures for learners, drawn from the functions and the tensors that the models themselves use."""

"""Every way to adapt the weights, under several seeds, on one split."""

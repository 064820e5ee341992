"""How good a model is: metrics with intervals, calibration, baselines, leakage."""

"""Model evaluation: metrics with confidence intervals, calibration, baselines, leakage."""

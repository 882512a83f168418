"""Where measurements and predictions meet: calibration, and replay of published results."""

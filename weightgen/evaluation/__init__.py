"""Accuracy, calibration, novelty, and the report that compares methods."""

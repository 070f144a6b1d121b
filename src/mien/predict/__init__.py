"""Predict: a bundle on new recordings."""

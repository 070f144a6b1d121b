"""Evaluation: metrics per participant, intervals over participants, trivial baselines."""

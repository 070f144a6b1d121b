"""Cross-validation: every model on the same participant-wise folds."""

"""Data: studies, `prepare`, the dataset, the clips of a target, splits by participant."""

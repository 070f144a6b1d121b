"""Runtime, without torch: pixels to features, the personal baseline, features to probabilities."""

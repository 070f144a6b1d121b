"""Training: two phases, augmentation, probes, the bundle writer."""

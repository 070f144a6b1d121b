"""Annotations: one reader per format, all giving `Annotation`s."""

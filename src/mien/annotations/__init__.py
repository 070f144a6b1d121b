"""Annotations: one reader per format, all giving tables of intervals in seconds."""

"""Report: one self-contained page that a researcher can read."""

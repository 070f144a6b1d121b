"""The audit: what could make a score of this dataset untrue, checked before anything is fitted."""

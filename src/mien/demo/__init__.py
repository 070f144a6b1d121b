"""Demo: a small drawn study and the whole story on it."""

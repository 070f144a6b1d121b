"""Core: the types, labels, errors, storage and weights lookup that every other layer stands on."""

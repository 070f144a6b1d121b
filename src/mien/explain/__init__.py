"""Explanations: which part of a picture a bundle's probability comes from, each with the scores that test it."""

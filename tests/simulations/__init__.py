"""Simulations that the rules of evidence rest on: T1-T4 of the acceptance table, and the tests against chance.

`make simulations` runs the full versions and writes what they measured into docs/evaluation.md;
tests/test_simulations.py runs short ones. To add one: a function `rounds -> list[Row]` in a module here, and a line in
`registry.py`.
"""

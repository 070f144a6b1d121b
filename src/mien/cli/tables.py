"""Tables on the terminal."""

from __future__ import annotations

from rich.console import Console

WIDTH_ELSEWHERE = 150  # in a file or a pipe, nothing says how wide a line may be


def table_console() -> Console:
    """Return a console on stdout, as wide as the terminal, and wide enough elsewhere."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=WIDTH_ELSEWHERE)

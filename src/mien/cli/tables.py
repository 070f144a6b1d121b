"""Tables on the terminal."""

from __future__ import annotations

from rich.console import Console

WIDTH_ELSEWHERE = 150  # in a file or a pipe, nothing says how wide a line may be


def table_console() -> Console:
    """Return a console on stdout, as wide as the terminal, and wide enough elsewhere."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_ELSEWHERE
    return console

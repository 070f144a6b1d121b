"""Progress: a bar on a terminal, one plain line now and then elsewhere; always on stderr, so stdout stays data."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

Advance = Callable[[str], None]
PLAIN_LINE_EVERY_S = 10.0

console = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Print one line for the user on stderr."""
    console.print(message, markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress(description: str, *, total: int) -> Iterator[Advance]:
    """Show the progress of `total` steps.

    Yields:
        A function to call after each step, with the name of what was done.
    """
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[item]}"), console=console) as bar:
            task = bar.add_task(description, total=total, item="")
            yield lambda item: bar.update(task, advance=1, item=item)
        return
    state = {"done": 0, "last": time.monotonic()}

    def advance(item: str) -> None:
        state["done"] += 1
        now = time.monotonic()
        if now - state["last"] >= PLAIN_LINE_EVERY_S or state["done"] == total:
            state["last"] = now
            print(f"{description}: {state['done']}/{total} {item}".rstrip(), file=sys.stderr, flush=True)

    yield advance

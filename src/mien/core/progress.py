"""Progress: a bar on a terminal, a plain line now and then elsewhere; always on stderr, so that stdout stays data."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_LINE_EVERY_S = 10.0

console = Console(stderr=True, highlight=False, emoji=False)

Listener = Callable[[str, int, int], None]
"""Is told what is done: description, steps that are done, steps in all."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Steps(Protocol):
    """What a long piece of work tells about itself."""

    def __call__(self, item: str) -> None:
        """Say that one step is done, and which."""
        ...

    def note(self, text: str) -> None:
        """Say what is going on within the present step."""
        ...


def say(message: str) -> None:
    """Print one line for the user on stderr."""
    console.print(message, markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress(description: str, *, total: int) -> Iterator[Steps]:
    """Show the progress of `total` steps."""
    listener = _listener.get()
    if listener is not None:
        yield _HeardSteps(description, total=total, listener=listener)
        return
    if not console.is_terminal:
        yield _PlainSteps(description, total=total)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[item]}", markup=False), console=console
    ) as bar:
        yield _BarSteps(bar, task=bar.add_task(description, total=total, item=""))


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Tell a listener about progress instead of the screen; for services."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class _HeardSteps:
    def __init__(self, description: str, *, total: int, listener: Listener) -> None:
        self._description = description
        self._total = total
        self._done = 0
        self._listener = listener

    def __call__(self, item: str) -> None:
        self._done += 1
        self.note(item)

    def note(self, text: str) -> None:
        del text  # a listener counts steps
        self._listener(self._description, self._done, self._total)


class _BarSteps:
    def __init__(self, bar: Progress, *, task: object) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, item: str) -> None:
        self._bar.update(self._task, advance=1, item=item)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self._bar.update(self._task, item=text)  # type: ignore[arg-type]


class _PlainSteps:
    def __init__(self, description: str, *, total: int) -> None:
        self._description = description
        self._total = total
        self._done = 0
        self._last_s = time.monotonic()

    def __call__(self, item: str) -> None:
        self._done += 1
        self._print(item, now=self._done == self._total)

    def note(self, text: str) -> None:
        self._print(text, now=False)

    def _print(self, text: str, *, now: bool) -> None:
        if now or time.monotonic() - self._last_s >= PLAIN_LINE_EVERY_S:
            self._last_s = time.monotonic()
            line = f"{self._description}: {self._done}/{self._total} {text}".rstrip()
            print(line, file=sys.stderr, flush=True)

"""Exit statuses: 0 done, 1 a bug (traceback in a log file), 2 wrong input or option, 3 refused by the rules."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from mien.core.errors import RefusedError, UserError
from mien.core.progress import say
from mien.core.weights import WEIGHTS_VARIABLE

Command = TypeVar("Command", bound=Callable[..., None])

EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130


def reported(command: Command) -> Command:
    """Turn errors into one line on stderr and an exit status."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError as error:
            raise typer.Exit(0) from error
        except UserError as error:
            say(f"Error: {error}")
            raise typer.Exit(EXIT_INPUT) from error
        except OSError as error:
            # A folder that can't be written to, a disk that is full, a file that went away.
            say(f"Error: {error.strerror or error}: {error.filename or 'no file named'}.")
            raise typer.Exit(EXIT_INPUT) from error
        except RefusedError as error:
            say("Refused: " + " ".join(error.reasons))
            raise typer.Exit(EXIT_REFUSED) from error
        except KeyboardInterrupt as error:
            say("Stopped. What was finished is kept; prepare, compare and train go on from there.")
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            say(
                f"A bug in mien: {type(error).__name__}: {error}. The traceback is in {_write_log()}; please report it."
            )
            raise typer.Exit(EXIT_BUG) from error

    return wrapped  # type: ignore[return-value]


def print_json(value: Any) -> None:
    """Print a command's result as JSON on stdout."""
    from mien.core.storage import to_jsonable  # imports pandas, which `--help` and `--version` don't wait for

    sys.stdout.write(json.dumps(to_jsonable(value), indent=2, ensure_ascii=False) + "\n")


def use_weights_directory(path: Path | None) -> None:
    """Make `--weights-dir` known to everything below, worker processes included.

    Raises:
        UserError: No such folder.
    """
    if path is None:
        return
    if not path.is_dir():
        raise UserError(f"No weights directory at {path}.")
    os.environ[WEIGHTS_VARIABLE] = str(path.resolve())


def _write_log() -> Path:
    handle, name = tempfile.mkstemp(prefix="mien-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(" ".join(sys.argv) + "\n" + traceback.format_exc())
    return Path(name)

"""Errors that users meet: each says what came, what is allowed and what to do.

The command line maps them to exit statuses: `UserError` 2, `RefusedError` 3, anything else 1 (a bug).
"""

from __future__ import annotations

from collections.abc import Iterable


class MienError(Exception):
    """Base of every error that mien raises on purpose."""


class UserError(MienError, ValueError):
    """Wrong input or option: the user can mend it, and the message says how."""


class NothingToLearnError(UserError):
    """A target that never varies: no model can learn it, and no test can say anything."""


class MediaError(UserError):
    """A recording that can't be read.

    Attributes:
        reason: What was found in the file.
        advice: What the user can do about it.
    """

    def __init__(self, reason: str, *, advice: str) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason
        self.advice = advice


class WeightsError(UserError):
    """Pretrained weights that are not on this machine."""


class RefusedError(MienError):
    """A result that the rules of evidence don't allow.

    Attributes:
        reasons: One sentence per rule that was broken.
    """

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(" ".join(self.reasons))


def unknown_name(kind: str, *, got: str, allowed: Iterable[str], hint: str = "") -> UserError:
    """Return the error for a name that isn't known, with the nearest names first.

    Args:
        kind: What the name stands for, such as "target" or "model".
        got: The name that came.
        allowed: The names that exist.
        hint: A closing sentence that says what to do.

    >>> str(unknown_name("model", got="vit", allowed=["vit_scratch", "improved_cnn"]))
    "Unknown model 'vit'. Known: vit_scratch, improved_cnn."
    """
    import difflib

    names = list(allowed)
    near = difflib.get_close_matches(got, names, n=len(names), cutoff=0.4)
    ordered = near + [name for name in names if name not in near]
    message = f"Unknown {kind} {got!r}. Known: {', '.join(ordered) or 'none'}."
    return UserError(f"{message} {hint}".strip())

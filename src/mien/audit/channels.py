"""The audit of a target of several channels: people once, labels and pictures channel by channel.

A channel that a check refuses is left out before anything is fitted, and the others go on: one label that says who
somebody is, or that is drawn into the picture, must neither teach the network that they share nor stop them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mien.audit.check import CHECK_NAMES, AuditVerdict, Check, Severity, verdict_of
from mien.audit.labels import CONSTANT_SHARE, REFUSED_BELOW, check_constant_label
from mien.core.labels import LabelScheme
from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.evaluation.units import scored_per

PEOPLE_CHECKS = ("copies", "same-person", "split-overlap", "augmentation-lineage", "clock", "overlays")
"""Checks that don't look at labels: made once, and true of every channel."""

FROM_WORST: tuple[Severity, ...] = ("fail", "warn", "not checked", "ok")
MAX_DETAILED = 4
"""Channels that a check's sentence tells of one by one; with fifty it would be a page. `audit.json` has all of them."""


def check_constant_channel(view: ClipIndex, *, kind: str) -> Check:
    """Refuse a channel whose label says who somebody is rather than what happens when.

    As a target of its own it would be scored once per person. Beside channels that vary in time it is fitted frame by
    frame, so that everything the network shares would learn faces by heart.

    Args:
        view: The clips of the channel.
        kind: Kind of the target; a number that never moves within people is never above their own median.
    """
    constant = check_constant_label(view)
    check, scheme = constant.check, view.scheme
    share = check.evidence.get("constant per participant")
    still = kind == "continuous" and share is not None and share > CONSTANT_SHARE
    if constant.unit == scheme.unit and scored_per(view.table, scheme) == "participant mean" and not still:
        return check
    return Check(
        "constant-label",
        "fail",
        share,
        CONSTANT_SHARE,
        f"{scheme.target} doesn't vary within {_percent(share)} of the participants, so that it says who "
        "somebody is, and a model of several channels would learn that for all of them.",
        "Leave it out of this target; compare it alone (--target with its name only), where each person counts once.",
        check.evidence,
    )


def splits_of(view: ClipIndex, splits: Sequence[Split]) -> tuple[Split, ...]:
    """Return the folds with the people who have a clip in the channel; folds that test nobody of them are left out."""
    people = set(view.table["participant_id"])

    def there(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in people)

    reduced = [
        dataclasses.replace(split, train=there(split.train), validation=there(split.validation), test=there(split.test))
        for split in splits
    ]
    return tuple(split for split in reduced if split.test)


def check_channel_folds(view: ClipIndex, splits: Sequence[Split]) -> Check | None:
    """Refuse a channel that the target's folds leave without people to train or test on; None where they don't.

    Args:
        view: The clips of the channel.
        splits: The folds as `splits_of` gives them.
    """
    empty = [split.fold for split in splits if not (split.train or split.validation)]
    if len(splits) >= 2 and not empty:
        return None
    people = view.table["participant_id"].nunique()
    why = (
        f"in fold {empty[0]} all of them are tested" if empty else f"only {len(splits)} of the folds tests any of them"
    )
    return Check(
        "few-participants",
        "fail",
        {"participants": people, "independent": int(view.table["group"].nunique())},
        {"fail": REFUSED_BELOW},
        f"{people} participants have a label of {view.scheme.target}, and {why}.",
        "Annotate more participants, use more folds, or leave the channel out.",
    )


def verdict_of_channels(channels: Sequence[Sequence[Check]]) -> AuditVerdict:
    """Return the verdict of a target whose channels have these checks: `fail` only where no channel is left.

    >>> ok, bad = Check("clock", "ok", 0.0, 0.1, "fine"), Check("copies", "fail", 1, 0, "two ids", "Give one.")
    >>> verdict_of_channels([[ok], [bad]]), verdict_of_channels([[bad], [bad]])
    ('warn', 'fail')
    """
    verdicts = {verdict_of(checks) for checks in channels}
    return "fail" if verdicts == {"fail"} else "pass" if verdicts == {"pass"} else "warn"


def combined_checks(channels: Mapping[str, Sequence[Check]], *, refused: Collection[str] = ()) -> tuple[Check, ...]:
    """Put the checks of all channels together: of each name the worst, and which channels it is of.

    Args:
        channels: Per channel its checks, those of `PEOPLE_CHECKS` the same in all.
        refused: Channels that were refused. What wasn't checked of them any more says nothing of the others.
    """
    combined = []
    for name in CHECK_NAMES:
        made = {channel: check for channel, checks in channels.items() for check in checks if check.name == name}
        own = {c: check for c, check in made.items() if c not in refused or check.severity != "not checked"} or made
        if own:
            combined.append(next(iter(own.values())) if name in PEOPLE_CHECKS else _worst(name, own))
    return tuple(combined)


def _worst(name: str, own: Mapping[str, Check]) -> Check:
    by_severity = {word: [c for c, check in own.items() if check.severity == word] for word in FROM_WORST}
    severity = next(word for word in FROM_WORST if by_severity[word])
    worst = by_severity[severity]
    measured = {channel: _one_value(check) for channel, check in own.items()}
    values = list(measured.values())
    pairs = [pair for check in own.values() for pair in check.evidence.get("pairs", [])]
    evidence: dict[str, Any] = {"channels": {word: names for word, names in by_severity.items() if names}}
    return Check(
        name,
        severity,
        values[0] if all(value == values[0] for value in values) else measured,
        own[worst[0]].threshold,
        _detail(by_severity, own),
        own[worst[0]].advice,
        evidence | ({"pairs": pairs} if pairs else {}),
    )


def _detail(by_severity: Mapping[Severity, Sequence[str]], own: Mapping[str, Check]) -> str:
    """Say which channels a check is of: the worst with its own sentence each, while they are few."""
    details = {check.detail for check in own.values()}
    if len(details) == 1:
        return details.pop()
    texts = []
    for word in FROM_WORST:
        names = by_severity[word]
        if not names:
            continue
        if word == "ok" or len(names) > MAX_DETAILED:
            shown = ", ".join(names[:MAX_DETAILED]) + (", ..." if len(names) > MAX_DETAILED else "")
            texts.append(f"{word} in {len(names)} of {len(own)} channels ({shown}).")
        if word != "ok":
            texts += [f"{channel} ({word}): {own[channel].detail}" for channel in names[:MAX_DETAILED]]
    return " ".join(text[0].upper() + text[1:] if number == 0 else text for number, text in enumerate(texts))


def _one_value(check: Check) -> Any:
    """The one number that says most of a check of one channel: the worst of several."""
    if not isinstance(check.measured, Mapping):
        return check.measured
    if "independent" in check.measured:
        return check.measured["independent"]
    numbers = [value for value in check.measured.values() if isinstance(value, int | float)]
    return max(numbers) if numbers else None


def nobody_annotated(scheme: LabelScheme) -> Check:
    """Return what is said of a channel without any label."""
    return Check(
        "label-varies",
        "fail",
        0,
        2,
        f"No usable frame has a label of {scheme.target}.",
        "Choose a target that varies (`mien inspect` shows them), or annotate more.",
    )


def _percent(share: float | None) -> str:
    return "all" if share is None else f"{100 * share:.0f} %"

"""What a tier of ELAN or Praat means: a scheme with or without values, a coder's own tier, or segments.

Labs name their tiers in two ways, and both are read:

* **a tier per scheme**, named `Scheme` or `Scheme@Participant`. Its text is the value of an interval (`Valence`:
  positive, negative), or says nothing more than that it is there (`Smile`: empty, `x`, or `Smile` again);
* **a tier per coder**, whose text names what was seen (Smile, Joy). It is known by its name: that of its own annotator
  attribute, or one that begins with coder, rater or annotator (`Coder Anna`, `rater_2@P01`).

Tiers called segments, questions, tasks or stimuli (or one of them) hold segments, not annotations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mien.annotations.tables import check_interval
from mien.core.types import Problem

TierText = Literal["auto", "value", "label"]
"""What the text of tiers is: decided by the tier, always the value of its scheme, or always what was seen."""

PRESENCE_MARKS = frozenset({"x", "1", "+", "y", "yes", "on", "true", "present"})
"""Texts that say no more than that an interval is there, where a tier without a vocabulary has no others."""

MIN_SHARE_OF_VALUES = 0.5
"""A scheme without a vocabulary has values where this share of its intervals or more has text; else these are notes."""

SEGMENT_TIER = re.compile(r"(segment|question|task)s?|stimulus|stimuli", re.IGNORECASE)
STIMULUS_TIER = re.compile(r"stimulus|stimuli", re.IGNORECASE)
CODER_TIER = re.compile(r"(coder|rater|annotator)(?![a-z])[\s_:.-]*.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Span:
    """One annotation on a tier.

    Attributes:
        onset_s: Start, s.
        offset_s: End (not included), s; the start again for a point.
        text: Its text, stripped.
        confidence: Confidence, 0..1; NaN where none is given.
    """

    onset_s: float
    offset_s: float
    text: str = ""
    confidence: float = math.nan


@dataclass(frozen=True)
class Tier:
    """A tier.

    Attributes:
        name: Its name as the file writes it.
        spans: Its annotations in the file's order.
        annotator: Who annotated it, empty where it doesn't say.
        participant: Who is annotated, empty where it doesn't say.
        vocabulary: Values that a controlled vocabulary allows.
        is_scheme: Whether it is known to be a scheme, whatever its name.
    """

    name: str
    spans: tuple[Span, ...]
    annotator: str = ""
    participant: str = ""
    vocabulary: tuple[str, ...] = ()
    is_scheme: bool = False

    @property
    def scheme(self) -> str:
        """The name without the participant: what stands before the last @."""
        return self.name.rpartition("@")[0].strip() or self.name.strip().rstrip("@")

    @property
    def respondent(self) -> str:
        """The participant: the attribute, else what stands after the last @."""
        before, _, after = self.name.rpartition("@")
        return self.participant or (after.strip() if before.strip() else "")


@dataclass
class TierTables:
    """What tiers hold, as rows.

    Attributes:
        intervals: Rows for `exports.interval_table`.
        segments: Rows for `exports.segment_table`.
        labels: Everything that is coded, tiers without an annotation too.
        problems: What was left out or read as something else, and why.
    """

    intervals: list[dict[str, object]] = field(default_factory=list)
    segments: list[dict[str, object]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def report(self, path: Path, *, count: int, what: str, advice: str) -> None:
        """Add a problem about annotations of the file, if there are any."""
        if count:
            reason = f"{count} annotation{'s' if count > 1 else ''} {what}"
            self.problems.append(Problem(path.name, "annotations", reason, advice))


def read_tiers(path: Path, tiers: Sequence[Tier], *, text: TierText = "auto") -> TierTables:
    """Turn tiers into intervals and segments.

    Args:
        path: The file, for problems.
        tiers: Its tiers; those of the same scheme are judged together, because a scheme has values or it hasn't.
        text: What their text is.

    Returns:
        Rows in order of the tiers. Annotations without a time, or that end before they start, are left out; points stay
        as intervals without duration; all are reported.
    """
    tables = TierTables()
    schemes: dict[str, list[Tier]] = {}
    for tier in (_checked(path, tier, tables=tables) for tier in tiers):
        if SEGMENT_TIER.fullmatch(tier.scheme) and not tier.is_scheme:
            _add_segments(path, tier, tables=tables)
        elif text == "label" or (text == "auto" and not tier.is_scheme and _is_coder(tier)):
            _add_coder(path, tier, tables=tables)
        else:
            schemes.setdefault(tier.scheme, []).append(tier)
    for scheme, own in schemes.items():
        _add_scheme(path, scheme, own, tables=tables)
    tables.labels = list(dict.fromkeys(tables.labels))
    return tables


def report_points(path: Path, spans: Iterable[tuple[float, float]]) -> list[Problem]:
    """Return the problem of intervals without duration, if there are any.

    Args:
        path: The file.
        spans: Starts and ends, s.
    """
    count = sum(1 for onset_s, offset_s in spans if onset_s == offset_s)
    if not count:
        return []
    reason = f"{count} point event{'s' if count > 1 else ''} without duration: no frame lies in them"
    advice = "Code them as intervals if they should count as labels."
    return [Problem(path.name, "annotations", reason, advice)]


def settle_values(path: Path, rows: Sequence[dict[str, object]]) -> list[Problem]:
    """Take the values of a label away where some of its intervals have none: a scheme has values or it hasn't.

    Args:
        path: The file, for problems.
        rows: Rows for `exports.interval_table`; changed in place, empty values become None.
    """
    without = {row["label"] for row in rows if not row["value"]}
    mixed = sorted({str(row["label"]) for row in rows if row["value"]} & {str(label) for label in without})
    for row in rows:
        if row["label"] in without:
            row["value"] = None
    if not mixed:
        return []
    reason = f"some intervals of {', '.join(mixed)} have a value and some have none: read as present, without values"
    return [Problem(path.name, "annotations", reason, "Give each of them a value if values matter.")]


def _checked(path: Path, tier: Tier, *, tables: TierTables) -> Tier:
    kept: list[Span] = []
    bad: dict[str, int] = {}
    for span in tier.spans:
        reason = check_interval(span.onset_s, span.offset_s)
        if reason:
            bad[reason] = bad.get(reason, 0) + 1
        else:
            kept.append(replace(span, text=span.text.strip()))
    for reason, count in bad.items():
        what = f"of the tier {tier.name!r} with {reason}, left out"
        tables.report(path, count=count, what=what, advice="Correct them in the program that wrote the file.")
    tables.problems.extend(report_points(path, ((span.onset_s, span.offset_s) for span in kept)))
    return replace(tier, spans=tuple(kept))


def _is_coder(tier: Tier) -> bool:
    same = tier.scheme.casefold() == tier.annotator.strip().casefold()
    return same or CODER_TIER.fullmatch(tier.scheme) is not None


def _add_segments(path: Path, tier: Tier, *, tables: TierTables) -> None:
    is_stimulus = STIMULUS_TIER.fullmatch(tier.scheme) is not None
    for span in tier.spans:
        if span.text:
            where = {"respondent": tier.respondent, "onset_s": span.onset_s, "offset_s": span.offset_s}
            tables.segments.append({**where, "segment": span.text, "stimulus": span.text if is_stimulus else ""})
    without = sum(1 for span in tier.spans if not span.text)
    what = f"without text in the tier of segments {tier.name!r}, left out"
    tables.report(path, count=without, what=what, advice="Name each segment.")


def _add_coder(path: Path, tier: Tier, *, tables: TierTables) -> None:
    annotator = tier.annotator.strip() or tier.scheme
    for span in tier.spans:
        if span.text:
            tables.intervals.append(_row(tier, span, label=span.text, value=None, annotator=annotator))
    tables.labels.extend([*tier.vocabulary, *(span.text for span in tier.spans if span.text)])
    without = sum(1 for span in tier.spans if not span.text)
    what = f"without text in the coder's tier {tier.name!r}, left out"
    tables.report(path, count=without, what=what, advice="Write what was seen, such as Smile.")


def _add_scheme(path: Path, scheme: str, tiers: Sequence[Tier], *, tables: TierTables) -> None:
    tables.labels.append(scheme)
    texts = [span.text for tier in tiers for span in tier.spans]
    given = sum(1 for text in texts if text)
    vocabulary = any(tier.vocabulary for tier in tiers)
    says_nothing = PRESENCE_MARKS | {scheme.casefold()}
    only_marks = not vocabulary and all(text.casefold() in says_nothing for text in texts if text)
    has_values = given > 0 and not only_marks and (vocabulary or given >= MIN_SHARE_OF_VALUES * len(texts))
    for tier in tiers:
        for span in tier.spans:
            if span.text or not has_values:
                value = span.text if has_values else None
                tables.intervals.append(_row(tier, span, label=scheme, value=value, annotator=tier.annotator.strip()))
    if has_values:
        what = f"without a value in {scheme!r}, whose others have one, left out"
        tables.report(path, count=len(texts) - given, what=what, advice="Fill in the value, or delete them.")
    elif given and not only_marks:
        what = f"of {scheme!r} with a text, where most have none: read as notes, the intervals as present"
        tables.report(path, count=given, what=what, advice="Fill in all texts if they are values.")


def _row(tier: Tier, span: Span, *, label: str, value: str | None, annotator: str) -> dict[str, object]:
    return {
        "respondent": tier.respondent,
        "label": label,
        "onset_s": span.onset_s,
        "offset_s": span.offset_s,
        "value": value,
        "annotator": annotator,
        "confidence": span.confidence,
    }

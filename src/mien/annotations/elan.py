"""ELAN annotation files (`.eaf`): read whatever the lab coded, write intervals for people to correct.

Reading gives every annotation a time as ELAN shows it: from its time slots; between neighbours where slots have no
time; from its parent where the tier is symbolic. What a tier means is decided in `annotations.tiers`.

**Media offsets.** ELAN's time is the media's time minus the offset that its user set to synchronise several media files
(`TIME_ORIGIN` of the media descriptor, ms; ELAN's players return "media time - offset"). Times here are the media's:
annotation time **plus** `TIME_ORIGIN`.

Format: see `annotations.eaf`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mien.annotations.eaf import SUBDIVISION, EafAnnotation, EafDocument, EafMedia, EafTier, parse_eaf
from mien.annotations.elan_writer import CONFIDENCE_TYPE, PLAIN_TYPE, write_elan
from mien.annotations.exports import Export, interval_table, segment_table
from mien.annotations.tables import read_number
from mien.annotations.tiers import Span, Tier, TierTables, TierText, read_tiers
from mien.core.errors import UserError
from mien.core.types import Problem

__all__ = ["read_elan", "write_elan"]

MS_PER_UNIT = {"milliseconds": 1.0, "PAL-frames": 40.0, "PAL-50-frames": 20.0, "NTSC-frames": 1001 / 30}
"""What `TIME_UNITS` may say: PAL has 25 (50) frames per second, NTSC 30000/1001."""

Times = dict[str, tuple[float, float]]
"""Start and end of annotations by id, in the file's unit."""


def read_elan(path: Path, *, media: str = "", text: TierText = "auto") -> Export:
    """Read an ELAN annotation file.

    Args:
        path: EAF 2.7 to 3.0 (older ones differ in nothing that is read).
        media: Name of the media file whose clock is wanted, where the file synchronises several; the first by default.
        text: What the text of tiers is (see `annotations.tiers`).

    Returns:
        Intervals and segments on the media's clock, and what was left out. A tier of `write_elan` with confidences
        gives them back to the annotations that it belongs to.

    Raises:
        UserError: The file isn't a whole EAF file, or its time unit isn't known.
    """
    document = parse_eaf(path)
    if document.units not in MS_PER_UNIT:
        raise UserError(f"{path.name} counts time in {document.units!r}; known: {', '.join(MS_PER_UNIT)}.")
    problems: list[Problem] = []
    origin_ms = _origin_ms(path, document.media, media=media, problems=problems)
    times = _resolve_times(document)
    confidences = _confidences(path, document, problems=problems)
    tiers = []
    for eaf_tier in document.tiers:
        if eaf_tier.type_id == CONFIDENCE_TYPE:
            continue
        spans = _spans(document, eaf_tier, times=times, origin_ms=origin_ms, confidences=confidences)
        tiers.append(
            Tier(
                name=eaf_tier.name,
                spans=spans,
                annotator=eaf_tier.annotator,
                participant=eaf_tier.participant,
                vocabulary=tuple(_vocabulary(document, eaf_tier).values()),
                is_scheme=eaf_tier.type_id.startswith(PLAIN_TYPE),
            )
        )
    if document.num_bad_slots:
        reason = f"{document.num_bad_slots} time slots hold no number; their times are taken from their neighbours"
        problems.append(Problem(path.name, "annotations", reason, "Check these annotations in ELAN and save again."))
    return _export(path, document, read_tiers(path, tiers, text=text), problems=problems)


def _export(path: Path, document: EafDocument, tables: TierTables, *, problems: Sequence[Problem]) -> Export:
    annotators = {row["annotator"] for row in tables.intervals}
    return Export(
        path=path,
        format=f"ELAN {document.version}".strip(),
        intervals=interval_table(tables.intervals),
        segments=segment_table(tables.segments),
        media=tuple(dict.fromkeys(item.name for item in document.media if item.name)),
        annotator=str(annotators.pop()) if len(annotators) == 1 else "",
        labels=tuple(tables.labels),
        problems=(*problems, *tables.problems),
    )


def _origin_ms(path: Path, descriptors: Sequence[EafMedia], *, media: str, problems: list[Problem]) -> float:
    """Return the offset of the media file whose clock is wanted."""
    wanted = Path(media).name.casefold()
    named = [item for item in descriptors if wanted and item.name.casefold() == wanted]
    origins = {item.origin_ms for item in descriptors}
    if not named and len(origins) > 1:
        reason = (
            f"it synchronises media files with different offsets ({', '.join(item.name for item in descriptors)}); "
            f"times are those of {descriptors[0].name}"
        )
        advice = "Put that file first in ELAN (Edit > Linked Files), or name the recording like the media file."
        problems.append(Problem(path.name, "annotations", reason, advice))
    return next((item.origin_ms for item in (*named, *descriptors)), 0.0)


def _resolve_times(document: EafDocument) -> Times:
    """Return start and end of every annotation that has them."""
    order = {slot: number for number, slot in enumerate(document.slots)}
    around = _times_around(document)
    times: Times = {}
    children: dict[str, dict[int, list[EafAnnotation]]] = {}
    for number, tier in enumerate(document.tiers):
        slots = _slot_times(document, tier, order=order, around=around)
        for annotation in tier.annotations:
            if annotation.slots is None:
                children.setdefault(annotation.parent, {}).setdefault(number, []).append(annotation)
            else:
                begin, end = (slots.get(slot, math.nan) for slot in annotation.slots)
                times[annotation.id] = (begin, end)
    queue = [name for name in times if name in children]
    while queue:
        parent = queue.pop()
        for number, group in children.pop(parent, {}).items():
            of_type = document.types.get(document.tiers[number].type_id)
            shared = of_type is not None and of_type.constraint == SUBDIVISION
            resolved = _share(times[parent], group) if shared else {child.id: times[parent] for child in group}
            new = {name: span for name, span in resolved.items() if name not in times}
            times.update(new)
            queue.extend(name for name in new if name in children)
    return times


def _share(span: tuple[float, float], group: Sequence[EafAnnotation]) -> Times:
    """Share a parent's time evenly among its children, in the order of their chain."""
    following: dict[str, list[EafAnnotation]] = {}
    for child in group:
        following.setdefault(child.previous, []).append(child)
    ids = {child.id for child in group}
    chain: dict[str, None] = {}
    stack = [child for child in reversed(group) if child.previous not in ids]
    while stack:
        child = stack.pop()
        if child.id not in chain:
            chain[child.id] = None
            stack.extend(reversed(following.get(child.id, [])))
    names = [*chain, *(child.id for child in group if child.id not in chain)]
    begin, step = span[0], (span[1] - span[0]) / len(names)
    return {name: (begin + number * step, begin + (number + 1) * step) for number, name in enumerate(names)}


def _slot_times(
    document: EafDocument, tier: EafTier, *, order: Mapping[str, int], around: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Return the time of each slot that a tier uses.

    Slots without a time lie evenly between their neighbours **on the tier**: in the file's order, slots of other tiers
    stand between them.
    """
    used = {slot for annotation in tier.annotations for slot in annotation.slots or () if slot in order}
    names = sorted(used, key=order.__getitem__)
    times: dict[str, float] = {}
    first = 0
    while first < len(names):
        value = document.slots[names[first]]
        if value is not None:
            times[names[first]] = value
            first += 1
            continue
        last = first
        while last < len(names) and document.slots[names[last]] is None:
            last += 1
        before = times[names[first - 1]] if first else around[names[first]][0]
        after = document.slots[names[last]] if last < len(names) else around[names[last - 1]][1]
        assert after is not None
        step = (after - before) / (last - first + 1)
        times.update({name: before + (number + 1) * step for number, name in enumerate(names[first:last])})
        first = last
    return times


def _times_around(document: EafDocument) -> dict[str, tuple[float, float]]:
    """Return the nearest times before and after each slot without one in the file's order, NaN where there is none."""
    names = list(document.slots)
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for found, walk in ((before, names), (after, names[::-1])):
        nearest = math.nan
        for name in walk:
            value = document.slots[name]
            nearest = nearest if value is None else value
            if value is None:
                found[name] = nearest
    return {name: (time, after[name]) for name, time in before.items()}


def _spans(
    document: EafDocument,
    tier: EafTier,
    *,
    times: Times,
    origin_ms: float,
    confidences: Mapping[str, float],
) -> tuple[Span, ...]:
    per_unit = MS_PER_UNIT[document.units]
    vocabulary = _vocabulary(document, tier)
    spans = []
    for annotation in tier.annotations:
        begin, end = times.get(annotation.id, (math.nan, math.nan))
        spans.append(
            Span(
                onset_s=(begin * per_unit + origin_ms) / 1000,
                offset_s=(end * per_unit + origin_ms) / 1000,
                text=annotation.text.strip() or vocabulary.get(annotation.entry, ""),
                confidence=confidences.get(annotation.id, math.nan),
            )
        )
    return tuple(spans)


def _vocabulary(document: EafDocument, tier: EafTier) -> Mapping[str, str]:
    of_type = document.types.get(tier.type_id)
    return document.vocabularies.get(of_type.vocabulary, {}) if of_type is not None else {}


def _confidences(path: Path, document: EafDocument, *, problems: list[Problem]) -> dict[str, float]:
    """Return the confidence of annotations, from the tiers that `write_elan` puts below theirs."""
    found: dict[str, float] = {}
    bad = 0
    for tier in document.tiers:
        for annotation in tier.annotations if tier.type_id == CONFIDENCE_TYPE else ():
            value = read_number(annotation.text.strip())
            if 0 <= value <= 1:
                found[annotation.parent] = value
            else:
                bad += 1
    if bad:
        reason = f"{bad} confidences that aren't a number of 0 to 1, left out"
        problems.append(Problem(path.name, "annotations", reason, "Correct or delete them; labels don't need them."))
    return found

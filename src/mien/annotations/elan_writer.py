"""Intervals as an ELAN annotation file, for people to look at beside the video and to correct.

One tier per label (and participant), because annotations on a tier of ELAN can't overlap. Whole milliseconds, as in
ELAN. `annotations.elan.read_elan` gives back what was written.

Format: "ELAN Annotation Format", schema EAFv3.0, Max Planck Institute for Psycholinguistics; addresses of media and
MIME types as ELAN writes them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from mien.core.errors import UserError
from mien.core.storage import write_text

CONFIDENCE_TYPE = "mien-confidence"
"""Linguistic type of the tiers that hold confidences; by it `read_elan` knows them again."""

PLAIN_TYPE = "mien-interval"
"""Linguistic type of the other tiers, or what it begins with; they are schemes, whatever their names."""

MIME_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".mov": "video/quicktime",
    ".wav": "audio/x-wav",
}
"""Types that ELAN tells apart; it finds a player for the others by itself."""

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 can't hold."""

LANGUAGE = {"LANG_DEF": "http://cdb.iso.org/lg/CDB-00130975-001", "LANG_ID": "und"}
"""The undetermined language: values of vocabularies must name one."""

CONSTRAINTS = {
    "Time_Subdivision": "Time subdivision of parent annotation's time interval, no time gaps allowed within this "
    "interval",
    "Symbolic_Subdivision": "Symbolic subdivision of a parent annotation. Annotations refering to the same parent are "
    "ordered",
    "Symbolic_Association": "1-1 association with a parent annotation",
    "Included_In": "Time alignable annotations within the parent annotation's time interval, gaps are allowed",
}
"""The stereotypes that every EAF file lists, with ELAN's own descriptions."""


@dataclass
class _WrittenTier:
    label: str
    participant: str
    begins_ms: list[int] = field(default_factory=list)
    ends_ms: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        # A label with an @ ends in one more, so that no part of it is taken for a participant.
        return f"{self.label}@{self.participant}" if self.participant or "@" in self.label else self.label


def write_elan(
    path: Path,
    intervals: pd.DataFrame,
    *,
    media: Path,
    annotator: str,
    labels: Sequence[str] = (),
    vocabularies: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write intervals as an ELAN file (EAF 3.0) beside or away from its media.

    Args:
        path: The `.eaf` file; written atomically.
        intervals: Columns label, onset_s, offset_s (half-open, on the media's clock); optional value (the text; without
            one, the interval means that the label is present), confidence (0..1, on a tier below) and respondent.
            Times are rounded to ms, those before 0 begin at 0, and an interval lasts 1 ms at least, because ELAN has
            nothing shorter.
        media: The media file; named by its absolute and by its relative address, so that the folder may be moved.
        annotator: Who made the intervals, such as "mien linear_probe@hog".
        labels: Labels that get a tier even where they have no interval, so that people can add what was missed.
        vocabularies: Values to choose from, by label; by default those that its intervals have.

    Raises:
        UserError: A column is missing, an interval has no label or no time, only some intervals of a label have a
            value, or intervals of one label overlap.
    """
    missing = [name for name in ("label", "onset_s", "offset_s") if name not in intervals]
    if missing:
        raise UserError(f"Intervals for {path.name} lack the column {missing[0]!r}; needed: label, onset_s, offset_s.")
    tiers = _collect(path, intervals, labels=labels)
    given = _vocabularies(path, tiers, given=vocabularies or {})
    root = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": _clean(annotator),
            "DATE": datetime.now(UTC).isoformat(timespec="seconds"),
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )
    num_annotations = sum(len(tier.texts) + sum(map(math.isfinite, tier.confidences)) for tier in tiers)
    _add_header(root, path=path, media=media, num_annotations=num_annotations)
    slots = _add_time_order(root, tiers)
    _add_tiers(root, tiers, slots=slots, annotator=annotator, vocabularies=given)
    _add_types(root, vocabularies=given)
    ElementTree.indent(root, space="    ")
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')


def _collect(path: Path, intervals: pd.DataFrame, *, labels: Sequence[str]) -> list[_WrittenTier]:
    """Put intervals on tiers, in order of their labels' first interval, those of `labels` first."""
    tiers = {(label, ""): _WrittenTier(label, "") for label in map(_clean, labels)}
    ordered = intervals.sort_values(["onset_s", "offset_s"], kind="stable")
    for row in ordered.to_dict("records"):
        label, participant = _text(row["label"]), _text(row.get("respondent"))
        onset_s, offset_s = float(row["onset_s"]), float(row["offset_s"])
        if not label:
            raise UserError(f"An interval for {path.name} at {onset_s:g} s has no label.")
        if not (math.isfinite(onset_s) and math.isfinite(offset_s) and max(onset_s, 0) <= offset_s):
            raise UserError(
                f"{path.name}: the interval of {label} from {onset_s:g} to {offset_s:g} s has no place in ELAN, whose "
                "time begins at 0. Give its start and end in seconds, the end not before the start."
            )
        tier = tiers.setdefault((label, participant), _WrittenTier(label, participant))
        begin_ms = round(max(onset_s, 0.0) * 1000)
        if tier.ends_ms and begin_ms < tier.ends_ms[-1]:
            raise UserError(
                f"{path.name}: intervals of {tier.name} overlap at {onset_s:g} s, and a tier of ELAN can't hold that. "
                "Join them, or give them different labels."
            )
        confidence = row.get("confidence")
        tier.begins_ms.append(begin_ms)
        tier.ends_ms.append(max(round(offset_s * 1000), begin_ms + 1))
        tier.texts.append(_text(row.get("value")))
        tier.confidences.append(math.nan if confidence is None or pd.isna(confidence) else float(confidence))
    return list(tiers.values())


def _vocabularies(
    path: Path, tiers: Sequence[_WrittenTier], *, given: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return the values of each label that has some, those that were given first."""
    found = {_clean(label): [_clean(str(value)) for value in values] for label, values in given.items() if len(values)}
    for tier in tiers:
        texts = [text for text in tier.texts if text]
        if texts:
            known = found.setdefault(tier.label, [])
            known.extend(text for text in dict.fromkeys(texts) if text not in known)
        if tier.label in found and len(texts) < len(tier.texts):
            raise UserError(
                f"{path.name}: {len(tier.texts) - len(texts)} of the {len(tier.texts)} intervals of {tier.label} "
                "have no value, the others have one. Give all of them a value or none."
            )
    return found


def _text(value: object) -> str:
    """Return a cell as text: nothing where it is missing, whole numbers without a fraction."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return ""
    return _clean(f"{value:g}" if isinstance(value, float) else str(value)).strip()


def _clean(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)


def _add_header(root: ElementTree.Element, *, path: Path, media: Path, num_annotations: int) -> None:
    header = ElementTree.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    absolute = media.resolve().as_posix()
    attributes = {
        "MEDIA_URL": f"file://{absolute if absolute.startswith('/') else '/' + absolute}",
        "MIME_TYPE": MIME_TYPES.get(media.suffix.lower(), "unknown"),
    }
    try:
        relative = Path(os.path.relpath(media.resolve(), path.resolve().parent)).as_posix()
    except ValueError:  # on Windows, another drive
        relative = ""
    if relative:
        attributes["RELATIVE_MEDIA_URL"] = relative if relative.startswith("..") else f"./{relative}"
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", {name: _clean(text) for name, text in attributes.items()})
    last = ElementTree.SubElement(header, "PROPERTY", {"NAME": "lastUsedAnnotationId"})
    last.text = str(num_annotations)


def _add_time_order(root: ElementTree.Element, tiers: Sequence[_WrittenTier]) -> dict[tuple[int, int, bool], str]:
    """Write the time slots in order of time; return their ids by tier, annotation and whether it is the end."""
    order = ElementTree.SubElement(root, "TIME_ORDER")
    wanted = [
        (time_ms, not is_end, tier_number, number)
        for tier_number, tier in enumerate(tiers)
        for is_end, times in ((False, tier.begins_ms), (True, tier.ends_ms))
        for number, time_ms in enumerate(times)
    ]
    slots = {}
    # At the same time, ends come before starts: an annotation may begin where the one before it ends.
    for count, (time_ms, is_start, tier_number, number) in enumerate(sorted(wanted), start=1):
        slots[tier_number, number, not is_start] = f"ts{count}"
        ElementTree.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": f"ts{count}", "TIME_VALUE": str(time_ms)})
    return slots


def _add_tiers(
    root: ElementTree.Element,
    tiers: Sequence[_WrittenTier],
    *,
    slots: Mapping[tuple[int, int, bool], str],
    annotator: str,
    vocabularies: Mapping[str, Sequence[str]],
) -> None:
    last_id = 0
    for tier_number, tier in enumerate(tiers):
        people = {"ANNOTATOR": _clean(annotator)} | ({"PARTICIPANT": tier.participant} if tier.participant else {})
        of_type = _vocabulary_type(tier.label) if tier.label in vocabularies else PLAIN_TYPE
        attributes = {"LINGUISTIC_TYPE_REF": of_type, "TIER_ID": tier.name, **people}
        parent = ElementTree.SubElement(root, "TIER", attributes)
        below = []
        for number, (text, confidence) in enumerate(zip(tier.texts, tier.confidences, strict=True)):
            last_id += 1
            annotation = ElementTree.SubElement(
                ElementTree.SubElement(parent, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                {
                    "ANNOTATION_ID": f"a{last_id}",
                    "TIME_SLOT_REF1": slots[tier_number, number, False],
                    "TIME_SLOT_REF2": slots[tier_number, number, True],
                },
            )
            ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = text
            if math.isfinite(confidence):
                below.append((f"a{last_id}", confidence))
        if below:
            name = f"{tier.name} (confidence)"
            attributes = {"LINGUISTIC_TYPE_REF": CONFIDENCE_TYPE, "TIER_ID": name, "PARENT_REF": tier.name, **people}
            child = ElementTree.SubElement(root, "TIER", attributes)
            for parent_id, confidence in below:
                last_id += 1
                annotation = ElementTree.SubElement(
                    ElementTree.SubElement(child, "ANNOTATION"),
                    "REF_ANNOTATION",
                    {"ANNOTATION_ID": f"a{last_id}", "ANNOTATION_REF": parent_id},
                )
                ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = f"{confidence:.6g}"


def _vocabulary_type(label: str) -> str:
    return f"{PLAIN_TYPE} {label}"


def _add_types(root: ElementTree.Element, *, vocabularies: Mapping[str, Sequence[str]]) -> None:
    def add_type(name: str, *, alignable: bool, **attributes: str) -> None:
        given = {**attributes, "GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": name}
        ElementTree.SubElement(root, "LINGUISTIC_TYPE", {**given, "TIME_ALIGNABLE": str(alignable).lower()})

    add_type(PLAIN_TYPE, alignable=True)
    for label in vocabularies:
        add_type(_vocabulary_type(label), alignable=True, CONTROLLED_VOCABULARY_REF=label)
    add_type(CONFIDENCE_TYPE, alignable=False, CONSTRAINTS="Symbolic_Association")
    if vocabularies:
        ElementTree.SubElement(root, "LANGUAGE", {**LANGUAGE, "LANG_LABEL": "undetermined (und)"})
    for stereotype, description in CONSTRAINTS.items():
        ElementTree.SubElement(root, "CONSTRAINT", {"DESCRIPTION": description, "STEREOTYPE": stereotype})
    number = 0
    for label, values in vocabularies.items():
        vocabulary = ElementTree.SubElement(root, "CONTROLLED_VOCABULARY", {"CV_ID": label})
        ElementTree.SubElement(vocabulary, "DESCRIPTION", {"LANG_REF": LANGUAGE["LANG_ID"]})
        for value in values:
            number += 1
            entry = ElementTree.SubElement(vocabulary, "CV_ENTRY_ML", {"CVE_ID": f"cveid{number}"})
            attributes = {"DESCRIPTION": "", "LANG_REF": LANGUAGE["LANG_ID"]}
            ElementTree.SubElement(entry, "CVE_VALUE", attributes).text = _clean(value)

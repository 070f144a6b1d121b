"""`audit.html`: the page of an audit, with the pictures that no table can replace; one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.labels import annotated_by
from mien.core.numbers import short_number
from mien.core.storage import read_json, write_text
from mien.report.audit_table import SEVERITIES, audit_line, check_rows
from mien.report.page import Nullable, nullable, render

MAX_PAIRS = 12
"""Pairs of pictures on the page: enough to see what is the matter, few enough for one screen and a small file."""

PICTURE_PX = 128
"""Side of the square that a picture fits in."""

BLUR_PX = 12
"""Side that a blurred picture is reduced to before it is enlarged again. A Gaussian blur could partly be undone; what
isn't in 12 x 12 px is gone. A copy still looks like its original."""

JPEG_QUALITY = 80

HEADINGS = {
    "pass": ("PASSED", "no leak was found by these checks"),
    "warn": ("WARNING", "nothing fails, but read every score beside what is marked below"),
    "fail": ("FAILED", "no model is trained or compared on this until it is mended, or overridden by name"),
}

Picture = Callable[[str, int], NDArray[np.uint8]]
"""From a recording's id and the number of a sampled frame to what was kept of it, (H, W, 3) uint8 RGB."""


def write_audit_report(audit: Path, *, picture: Picture | None = None, blurred: bool = True) -> Path:
    """Write `audit.html` beside an `audit.json` and return its path.

    Args:
        audit: Path of `audit.json`.
        picture: Where the pictures of copied frames come from, such as `Dataset.picture`; None for none.
        blurred: Whether faces are made unrecognisable. Without it the page holds faces of participants.

    Raises:
        UserError: `audit.json` is missing or isn't JSON, or names a frame that `picture` doesn't have.
    """
    found = nullable(read_json(audit))
    overrides = found["overrides"] or ()
    evidence = {str(check["name"]): check["evidence"] or Nullable() for check in found["checks"] or []}
    pairs = _pairs(evidence)
    about = f" of {found['target']}" if found["target"] else ""
    context = {
        "a": found,
        "title": f"Audit{about}",
        "heading": _heading(found),
        "channels": _channels(found),
        "annotated_by": annotated_by(found["label_source"]),
        "checks": check_rows(found, overrides=overrides),
        "line": audit_line(found, overrides=overrides),
        "pairs": [_pictured(pair, picture=picture, blurred=blurred) for pair in pairs[:MAX_PAIRS]],
        "num_pairs": len(pairs),
        "pictured": picture is not None,
        "blurred": blurred,
        "blur_px": BLUR_PX,
        "shares": (evidence.get("copies") or {}).get("shares") or [],
        "references": _references(found),
        "gaps": _gaps(found),
    }
    page = audit.with_name("audit.html")
    write_text(page, render("audit.html.j2", context))
    return page


def _heading(found: Mapping[str, Any]) -> tuple[str, str]:
    word, said = HEADINGS.get(found["verdict"], ("NOT FINISHED", "the audit has no verdict"))
    refused = [name for name, channel in (found["channels"] or {}).items() if channel["refused"]]
    if refused and found["verdict"] == "warn":
        return word, f"refused and dropped before any fit: {', '.join(refused)}; the other channels go on"
    return word, said


def _channels(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per channel of a target of several: its worst checks, and how many of each severity."""
    rows: list[dict[str, Any]] = []
    for name, channel in (found["channels"] or {}).items():
        checks = channel["checks"] or []
        bad = [check for word in ("fail", "warn") for check in checks if check["severity"] == word]
        counts = [(word, sum(check["severity"] == word for check in checks)) for word in SEVERITIES]
        rows.append(Nullable({**channel, "name": name, "bad": bad, "counts": counts}))
    return rows


def _pairs(evidence: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of copied frames, the likest first, then those whose labels contradict each other."""
    copies = (evidence.get("copies") or {}).get("pairs") or []
    ordered = sorted(copies, key=lambda pair: -float(pair.get("zncc") or 0.0))
    contradictory = (evidence.get("contradictory-labels") or {}).get("pairs") or []
    told = [(pair, _likeness(pair)) for pair in ordered] + [
        (pair, "One picture, two labels.") for pair in contradictory
    ]
    return [{**pair, "what": what} for pair, what in told]


def _likeness(pair: Mapping[str, Any]) -> str:
    mirrored = ", mirrored" if pair.get("mirrored") else ""
    kind = "whole pictures" if pair.get("kind") == "picture" else "faces"
    return f"Likeness of the {kind} (ZNCC) {short_number(pair.get('zncc'))}{mirrored}."


def _pictured(pair: Mapping[str, Any], *, picture: Picture | None, blurred: bool) -> dict[str, Any]:
    shown = dict(pair)
    for side in ("a", "b"):
        end = pair[side]
        shown[f"picture_{side}"] = ""
        if picture is not None and end["recording"] is not None and end["frame"] is not None:
            shown[f"picture_{side}"] = _data_uri(picture(str(end["recording"]), int(end["frame"])), blurred=blurred)
    return shown


def _data_uri(pixels: NDArray[np.uint8], *, blurred: bool) -> str:
    """Write a picture (H, W, 3) uint8 RGB as a small JPEG within a data URI."""
    height, width = pixels.shape[:2]
    scale = PICTURE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.ascontiguousarray(pixels)
    if blurred:
        small = np.asarray(cv2.resize(small, (BLUR_PX, BLUR_PX), interpolation=cv2.INTER_AREA), np.uint8)
    drawn = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC if blurred or scale > 1 else cv2.INTER_AREA)
    done, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [int(cv2.IMWRITE_JPEG_QUALITY), JPEG_QUALITY]
    )
    assert done, "a uint8 picture can be written as JPEG"
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _references(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of what doesn't read the face, with the check, and the channel, that they belong to."""
    return [
        Nullable({**score, "check": check["name"], "title": check["title"] or check["name"], "channel": channel})
        for channel, check in _all_checks(found)
        for score in (check["evidence"] or {}).get("scores") or []
    ]


def _gaps(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        Nullable({**gap, "channel": channel})
        for channel, check in _all_checks(found)
        if check["name"] == "leakage-gap"
        for gap in (check["evidence"] or {}).get("gaps") or []
    ]


def _all_checks(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The checks of the target, or of each of its channels, with the channel's name."""
    channels = found["channels"] or {}
    if not channels:
        return [("", check) for check in found["checks"] or []]
    return [(str(name), check) for name, channel in channels.items() for check in channel["checks"] or []]

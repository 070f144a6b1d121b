"""Landmarks, boxes and text that another program drew on the face: a model could read those instead of the face."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.audit.check import Check
from mien.data.dataset import Dataset
from mien.runtime.encoders import DEFAULT_CROP, view_crops

VIEW_PX = 160
"""Side of the picture that is looked at: large enough for the one-px lines that programs draw."""

NEIGHBOURHOOD_PX = 9
"""A line is what a median over so many px takes away. Lips and clothes are broader and stay."""

MIN_JUMP = 40
"""Steps by which chroma, or a white of at least `MIN_WHITE`, must stand out from the median. Of 40, 60 and 80 this kept
all of thin lines after JPEG with halved chroma, and none of 72 real faces."""

MIN_WHITE = 235
RUN_PX = 5
"""Length of a straight run (across, down, and both diagonals): hair and glints are shorter or curved."""

MIN_FRACTION = 0.0005
"""Share of the px in such runs, median over a recording's frames. It is 0 for each of 72 real people; with dots, a
mesh, a box or text drawn on the same faces (and JPEG 85) it is .0002 to .04: 100, 94, 99 and 100 % of them reach
this."""

NUM_FRAMES = 8
"""Frames per recording that are looked at."""


def line_fraction(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of px in thin, straight, saturated (or white) runs.

    Args:
        pictures: (N, S, S, 3) RGB.

    Returns:
        (N,) 0..1.
    """
    return np.array([_runs(picture).mean() for picture in pictures])


def _runs(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    low, high = picture.min(axis=2), picture.max(axis=2)
    thin = (_stands_out(high - low) | ((low >= MIN_WHITE) & _stands_out(low))).astype(np.uint8)
    diagonal = np.eye(RUN_PX, dtype=np.uint8)
    across = np.ones((1, RUN_PX), np.uint8)
    runs = np.zeros_like(thin)
    for direction in (across, across.T, diagonal, diagonal[::-1]):
        runs |= np.asarray(cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ascontiguousarray(direction)), np.uint8)
    return np.asarray(runs)


def _stands_out(values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    around = np.asarray(cv2.medianBlur(values, NEIGHBOURHOOD_PX), np.int16)
    return np.asarray(values.astype(np.int16) - around >= MIN_JUMP)


def check_overlays(dataset: Dataset) -> Check:
    """Look for overlays in the faces of every recording: `NUM_FRAMES` frames each, spread over time.

    Args:
        dataset: A prepared study.
    """
    if not (dataset.recordings["num_frames"] > 0).any():
        detail, advice = "Not checked: no pictures.", "Nothing: where nothing is shown, nothing is drawn."
        return Check("overlays", "not checked", None, MIN_FRACTION, detail, advice)
    if dataset.crop == "none":
        return Check(
            "overlays",
            "not checked",
            measured=None,
            threshold=MIN_FRACTION,
            detail="The crops are whole pictures, in which a face is too small to tell lines on it from its features.",
            advice="Look at the pictures, or prepare with --crop face or --crop panel.",
        )
    fractions = {}
    for recording_id in dataset.recordings["recording_id"]:
        rows = np.flatnonzero(dataset.has_crop(str(recording_id)))
        if len(rows):
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, NUM_FRAMES).round().astype(int))]
            crops = np.asarray(dataset.crops(str(recording_id))[rows])
            seen = view_crops(crops, margin=dataset.margin, crop=DEFAULT_CROP, size_px=VIEW_PX)
            fractions[str(recording_id)] = float(np.median(line_fraction(seen)))
    over = {name: value for name, value in fractions.items() if value >= MIN_FRACTION}
    if not fractions:
        return Check(
            "overlays",
            "not checked",
            measured=None,
            threshold=MIN_FRACTION,
            detail="No recording shows a face.",
            advice="Prepare with --crop none where the whole picture is meant, else check the face detector.",
        )
    largest = max(fractions.values())
    return Check(
        "overlays",
        "warn" if over else "ok",
        measured={"recordings": len(over), "largest_fraction": largest},
        threshold=MIN_FRACTION,
        detail=f"{len(over)} of {len(fractions)} recordings have thin, straight, saturated lines on the face "
        f"(largest share of its px {largest:.4f}; up to {NUM_FRAMES} frames of each).",
        advice="Look at the pictures. Export the recordings without landmarks, boxes or text drawn on them: a model "
        "reads those, not the face."
        if over
        else "",
        evidence={"recordings": [{"recording": n, "fraction": v} for n, v in sorted(over.items())]},
    )

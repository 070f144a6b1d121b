"""The annotated copy of a video: every frame at its own time, with sound, and under it what is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.progress import progress
from mien.core.storage import atomic_path
from mien.media.face_cover import FaceCover, box_at, find_faces
from mien.media.video import probe_video, read_frames
from mien.media.video_writer import VideoWriter
from mien.predict.recording import Prediction, counted
from mien.predict.seeing import bundle_detector
from mien.predict.timeline_events import TimelineEvents
from mien.runtime.bundle import Bundle, ModelSpec

WINDOW_S = 20.0
"""What is shown around the present moment: an expression of a second is then a few per cent of the width."""

STRIP_SHARE = 0.2
"""Height of the strip over the picture's; at least `MIN_STRIP_PX`."""
MIN_STRIP_PX = 72

MOVED_SAMPLES = 2.5
"""The participant's box is drawn between samples that are at most so many intervals apart."""

FALLBACK_FPS = 25.0
"""Declared where the recording declares no rate; every picture has its own time anyway."""

BACKGROUND, SILENT, LINES, TEXT = (24, 24, 27), (63, 63, 70), (113, 113, 122), (228, 228, 231)
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (240, 228, 66))
FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_annotated_copy(
    path: Path,
    *,
    video: Path,
    prediction: Prediction,
    events: TimelineEvents,
    bundle: Bundle,
    blur: bool,
) -> str:
    """Write a video again with what is predicted of it; memory is a few frames.

    Args:
        path: The MP4.
        video: The video.
        prediction: What is predicted of it.
        events: Its events.
        bundle: The bundle; its detector looks for faces to cover.
        blur: Cover all faces (`mien.media.face_cover` says how, and what that misses).

    Returns:
        What is wrong with the copy, empty where nothing is.

    Raises:
        MediaError: The video can't be read.
    """
    info = probe_video(video)
    cover = find_faces(video, detector=bundle_detector(bundle)) if blur else None
    strip = Strip.of(prediction.timeline, events=events, spec=bundle.spec)
    track = _Track.of(prediction, fps=bundle.spec.sampling.fps)
    fps = info.fps_declared or FALLBACK_FPS
    total = max(1, round((info.duration_s or 0.0) * fps))
    with (
        atomic_path(path) as temporary,
        progress(f"Drawing {path.name}", total=total) as advance,
    ):
        with VideoWriter(temporary, fps=fps, sound_from=video) as writer:
            for rgb, pts_s, lasts_s in _frames(video, fps=fps):
                picture = _drawn(rgb, pts_s=pts_s, cover=cover, track=track)
                whole = np.vstack([picture, strip.draw(pts_s, width=picture.shape[1], height=_strip_px(picture))])
                writer.add(whole, pts_s=pts_s, lasts_s=lasts_s)
                advance("")
        return writer.sound_problem


def _frames(video: Path, *, fps: float) -> Iterator[tuple[NDArray[np.uint8], float, float]]:
    """Yield every frame with its time and how long it lasts: until the next one's."""
    before: tuple[NDArray[np.uint8], float] | None = None
    for frame in read_frames(video, threads=2):
        if before is not None:
            yield (*before, frame.pts_s - before[1])
        before = frame.rgb, frame.pts_s
    if before is not None:
        yield (*before, 1.0 / fps)


def _strip_px(picture: NDArray[np.uint8]) -> int:
    height = int(picture.shape[0])
    return max(MIN_STRIP_PX, round(STRIP_SHARE * height)) // 2 * 2


def _drawn(rgb: NDArray[np.uint8], *, pts_s: float, cover: FaceCover | None, track: _Track) -> NDArray[np.uint8]:
    """Return a frame of even sides, faces covered where that is asked for, and the participant's box."""
    picture = rgb.copy() if cover is None else cover.cover(rgb, pts_s=pts_s)
    box = track.at(pts_s)
    if box is not None:
        corners = [int(value) for value in np.round(box)]
        thickness = max(1, round(max(rgb.shape[:2]) / 480))
        cv2.rectangle(picture, tuple(corners[:2]), tuple(corners[2:]), (255, 255, 255), thickness)
    height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    return picture[:height, :width]


@dataclass(frozen=True)
class _Track:
    """Where the participant's face is: times (N,) at which it was found, and boxes (N, 4)."""

    pts_s: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]
    step_s: float

    @staticmethod
    def of(prediction: Prediction, *, fps: float) -> _Track:
        known = np.isfinite(prediction.boxes_xyxy).all(axis=1)
        times = prediction.timeline["start_s"].to_numpy(np.float64)
        return _Track(times[known], prediction.boxes_xyxy[known], 1.0 / fps)

    def at(self, pts_s: float) -> NDArray[np.float64] | None:
        return box_at(
            self.pts_s,
            self.boxes_xyxy,
            pts_s,
            bridged_s=MOVED_SAMPLES * self.step_s,
            held_s=self.step_s / 2,
        )


@dataclass(frozen=True)
class Strip:
    """What is drawn under the picture: answers over time, around the present moment.

    Attributes:
        starts_s: (N,) when samples begin.
        ends_s: (N,) until when they count.
        values: (N, C) what is said, scaled to 0..1; NaN where nothing is.
        said: (N, C) the same as it is written.
        counts: (N,) whether a sample counts.
        names: Of the outputs.
        events: label, onset_s and offset_s.
    """

    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    values: NDArray[np.float64]
    said: NDArray[np.float64]
    counts: NDArray[np.bool_]
    names: tuple[str, ...]
    events: pd.DataFrame

    @staticmethod
    def of(timeline: pd.DataFrame, *, events: TimelineEvents, spec: ModelSpec) -> Strip:
        """Return the strip of a timeline; numbers are drawn between the lowest and the highest."""
        labels = spec.labels
        said = timeline[list(labels.output_columns)].to_numpy(dtype=np.float64)
        values = said
        if labels.kind == "continuous" and np.isfinite(said).any():
            low, high = np.nanmin(said), np.nanmax(said)
            values = (said - low) / (high - low if high > low else 1.0)
        empty = pd.DataFrame(columns=["label", "onset_s", "offset_s"])
        return Strip(
            starts_s=timeline["start_s"].to_numpy(np.float64),
            ends_s=timeline["end_s"].to_numpy(np.float64),
            values=values,
            said=said,
            counts=counted(timeline) & ~np.isnan(said).any(axis=1),
            names=labels.output_names,
            events=empty if events.table is None else events.table,
        )

    def draw(self, pts_s: float, *, width: int, height: int) -> NDArray[np.uint8]:
        """Return the strip (height, width, 3) around a time."""
        canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
        row_px = max(18, height // 5)
        from_s = pts_s - WINDOW_S / 2
        scale = width / WINDOW_S
        rows = np.flatnonzero((self.ends_s > from_s) & (self.starts_s < from_s + WINDOW_S))
        left = np.floor((self.starts_s[rows] - from_s) * scale).astype(int)
        right = np.ceil((self.ends_s[rows] - from_s) * scale).astype(int)
        for place, row in enumerate(rows):
            if not self.counts[row]:
                cv2.rectangle(canvas, (int(left[place]), row_px), (int(right[place]), height), SILENT, -1)
        self._draw_lines(canvas, rows, left, right, top=row_px)
        self._draw_events(canvas, from_s=from_s, scale=scale, top=row_px)
        cv2.line(canvas, (width // 2, row_px), (width // 2, height), TEXT, 1)
        self._write(canvas, pts_s, row_px=row_px)
        return canvas

    def _draw_lines(
        self,
        canvas: NDArray[np.uint8],
        rows: NDArray[np.int64],
        left: NDArray[np.int64],
        right: NDArray[np.int64],
        *,
        top: int,
    ) -> None:
        space = canvas.shape[0] - top - 22
        for column in range(len(self.names)):
            for place, row in enumerate(rows):
                if np.isnan(self.values[row, column]):
                    continue
                y = canvas.shape[0] - 6 - round(float(self.values[row, column]) * space)
                colour = COLOURS[column % len(COLOURS)]
                cv2.line(canvas, (int(left[place]), y), (int(right[place]), y), colour, 2 if self.counts[row] else 1)

    def _draw_events(self, canvas: NDArray[np.uint8], *, from_s: float, scale: float, top: int) -> None:
        for event in self.events.to_dict("records"):
            if event["offset_s"] > from_s and event["onset_s"] < from_s + WINDOW_S:
                ends = [round((float(event[edge]) - from_s) * scale) for edge in ("onset_s", "offset_s")]
                column = self.names.index(str(event["label"]))
                y = top + 1 + 4 * (column % 3)
                cv2.rectangle(canvas, (ends[0], y), (ends[1], y + 3), COLOURS[column % len(COLOURS)], -1)

    def _write(self, canvas: NDArray[np.uint8], pts_s: float, *, row_px: int) -> None:
        """Write the time and what is said now."""
        now = int(np.searchsorted(self.starts_s, pts_s, side="right")) - 1
        size = row_px / 40
        x, y = 4, row_px - 5
        texts = [(f"{pts_s:7.2f} s ", TEXT)]
        if now < 0 or pts_s >= self.ends_s[now] or not self.counts[now]:
            texts.append(("nothing is said", LINES))
        else:
            for column, name in enumerate(self.names):
                texts.append((f"{name} {self.said[now, column]:.2f} ", COLOURS[column % len(COLOURS)]))
        for text, colour in texts:
            # OpenCV's letters are ASCII.
            plain = text.encode("ascii", "replace").decode()
            cv2.putText(canvas, plain, (x, y), FONT, size, colour, 1, cv2.LINE_AA)
            x += cv2.getTextSize(plain, FONT, size, 1)[0][0] + 6

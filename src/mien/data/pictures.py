"""The pictures of one recording in one pass: sampled, faces followed, crops written; `prepare` and `predict` share it.

Who the participant is is known at the end only. Meanwhile the crop of the person who leads so far goes to its final
place, crops of others to a file beside it, from which the few wrong places are put right: with one person in the
picture nothing is written twice, and memory holds one frame.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.types import CropKind, FaceChoice, FaceTrack, VideoFrame
from mien.data.arrays import NpyWriter
from mien.media.detectors import FaceDetector
from mien.media.faces import context_picture, crop_frame
from mien.media.panel import Panel, find_panel
from mien.media.people import (
    Choice,
    PeopleFinder,
    SeenFace,
    automatic_interval,
    choose_participant,
)
from mien.media.quality import QUALITY_COLUMNS, face_quality
from mien.media.video import DecodeLog, sample_frames

BOX_COLUMNS = ("x0", "y0", "x1", "y1")
LANDMARK_COLUMNS = tuple(f"l{number}{axis}" for number in range(5) for axis in "xy")
FACE_COLUMNS = ("score", *BOX_COLUMNS, *LANDMARK_COLUMNS)
FRAME_COLUMNS = ("frame", "pts_s", "face_found", *FACE_COLUMNS)
"""First columns of `frames.parquet`; `track` (-1 without a face) and `QUALITY_COLUMNS` follow."""
TRACK_COLUMNS = ("track", "frame", "pts_s", *FACE_COLUMNS)
"""Columns of `tracks.parquet`: a row per face of anybody."""

CROPS_FILE, CONTEXT_FILE, OTHERS_FILE = "crops.npy", "context.npy", ".others.npy"


@dataclass(frozen=True)
class PictureSettings:
    """How pictures are made from a recording.

    Attributes:
        fps: Samples per second.
        crop: What is cut out of a frame.
        face: Which person is the participant.
        size_px: Side of the crops.
        margin: Side of the crops over the box that they are cut around.
        detect_every: The detector looks at every so many samples, None for `automatic_interval`.
        context_width_px: Width of the small whole pictures, None for none.
    """

    fps: float
    crop: CropKind
    face: FaceChoice
    size_px: int
    margin: float
    detect_every: int | None = None
    context_width_px: int | None = None


@dataclass(frozen=True)
class Pictures:
    """What was made of a recording, beside the files.

    Attributes:
        frames: `FRAME_COLUMNS`, `track` and `QUALITY_COLUMNS`, one row per sampled frame: the participant's face,
            positions in px, NaN where it isn't seen.
        tracks: All people.
        choice: Who the participant is.
        panel: The camera's panel, where crops are of one.
    """

    frames: pd.DataFrame
    tracks: tuple[FaceTrack, ...]
    choice: Choice
    panel: Panel | None

    def track_table(self) -> pd.DataFrame:
        """Return `TRACK_COLUMNS`, sorted by frame and track."""
        parts = [_track_rows(track) for track in self.tracks]
        types = {"track": "int32", "frame": "int64", "pts_s": "float64", **dict.fromkeys(FACE_COLUMNS, "float32")}
        table = pd.concat(parts) if parts else pd.DataFrame(columns=list(TRACK_COLUMNS))
        return table.sort_values(["frame", "track"], ignore_index=True).astype(types)


def make_pictures(
    path: Path,
    *,
    settings: PictureSettings,
    detector: FaceDetector,
    folder: Path,
    log: DecodeLog | None = None,
    sampled: Callable[[], None] = lambda: None,
) -> Pictures:
    """Write `crops.npy`, and `context.npy` where it is asked for, of a recording into a folder.

    A crop is of the participant alone, zeros where they aren't seen; `panel` and `none` crop every frame.

    Args:
        path: The recording.
        settings: How.
        detector: The face detector.
        folder: Where to; it exists.
        log: Filled while decoding.
        sampled: Called after each sampled frame.

    Raises:
        MediaError: The recording can't be read, or crops are of a panel and no face is found.
    """
    panel = find_panel(path, detector=detector, margin=settings.margin) if settings.crop == "panel" else None
    detect_every = settings.detect_every or automatic_interval(settings.fps)
    finder = PeopleFinder(detector, detect_every=detect_every)
    times, qualities = list[float](), list[tuple[float, ...]]()
    with _PictureFiles(folder, settings=settings, panel=panel) as files:
        for frame in sample_frames(path, fps=settings.fps, threads=1, log=log):
            seen = finder.add(frame.rgb, pts_s=frame.pts_s)
            qualities += [face_quality(frame.rgb, one.face) for one in seen]
            times.append(frame.pts_s)
            files.add(frame, seen)
            sampled()
    people = finder.finish()
    candidates = [_in_panel(track, panel=panel) for track in people.tracks]
    choice = choose_participant([track for track in candidates if len(track.frames)], choice=settings.face)
    rows = np.full(len(times), -1)
    if choice.track is not None:
        own = np.isin(people.tracks[choice.track].frames, candidates[choice.track].frames)
        rows[candidates[choice.track].frames] = people.rows[choice.track][own]
        if settings.crop == "face":
            files.put_right(rows)
    files.remove_others()
    chosen = None if choice.track is None else candidates[choice.track]
    frames = _frame_table(times, chosen=chosen, rows=rows, qualities=qualities)
    return Pictures(frames=frames, tracks=people.tracks, choice=choice, panel=panel)


def _in_panel(track: FaceTrack, *, panel: Panel | None) -> FaceTrack:
    """Return what of a track lies in the panel: a participant who is shown elsewhere, too, is looked at there."""
    if panel is None:
        return track
    inside = np.array([panel.holds(box) for box in track.boxes_xyxy], bool)
    return FaceTrack(
        track=track.track,
        frames=track.frames[inside],
        pts_s=track.pts_s[inside],
        boxes_xyxy=track.boxes_xyxy[inside],
        landmarks_xy=track.landmarks_xy[inside],
        score=track.score[inside],
    )


@dataclass
class _PictureFiles:
    """The files of pictures while a recording is read."""

    folder: Path
    settings: PictureSettings
    panel: Panel | None
    _written: list[int] = field(default_factory=list)
    _other_rows: dict[int, int] = field(default_factory=dict)
    _weights: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def __enter__(self) -> _PictureFiles:
        self._stack = contextlib.ExitStack()
        shape = (self.settings.size_px, self.settings.size_px, 3)
        self._crops = self._stack.enter_context(NpyWriter(self.folder / CROPS_FILE, row_shape=shape))
        self._context: NpyWriter | None = None
        self._others: NpyWriter | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, frame: VideoFrame, seen: Sequence[SeenFace]) -> None:
        """Write the pictures of one frame."""
        if self.settings.context_width_px is not None:
            self._add_context(context_picture(frame.rgb, width_px=self.settings.context_width_px))
        if self.settings.crop != "face":
            crop = self._cut(frame.rgb, None if self.panel is None else self.panel.box_xyxy)
            assert crop is not None, "a panel, or the whole picture"
            self._crops.append(crop)
            return
        for one in seen:
            x0, y0, x1, y1 = (float(value) for value in one.face.box_xyxy)
            self._weights[one.track] += (x1 - x0) * (y1 - y0) * one.face.score
        leader = max(seen, key=lambda one: self._weights[one.track], default=None)
        # Not the leader of the frame: somebody who is alone in it for a moment may not be the participant.
        if leader is not None and self._weights[leader.track] < max(self._weights.values()):
            leader = None
        for one in seen:
            crop = self._cut(frame.rgb, one.face.box_xyxy)
            assert crop is not None, "there is a box"
            if one is leader:
                self._crops.append(crop)
            else:
                self._add_other(one.row, crop)
        if leader is None:
            self._crops.append(np.zeros(self._crops.row_shape, np.uint8))
        self._written.append(-1 if leader is None else leader.row)

    def put_right(self, rows: NDArray[np.int64]) -> None:
        """Make crops those of the faces `rows` (N,), -1 for zeros, where they aren't yet."""
        wrong = np.flatnonzero(np.array(self._written) != rows)
        if not len(wrong):
            return
        num_bytes = int(np.prod(self._crops.row_shape))
        # Read and written row by row: the pages of a mapping would count as memory, which then grew with the recording.
        with contextlib.ExitStack() as stack:
            crops = stack.enter_context((self.folder / CROPS_FILE).open("r+b"))
            others = None if self._others is None else stack.enter_context((self.folder / OTHERS_FILE).open("rb"))
            for frame in wrong:
                row = int(rows[frame])
                pixels = bytes(num_bytes)
                if row >= 0:
                    assert others is not None and self._others is not None, "a crop that isn't in place is there"
                    others.seek(self._others.header_length + self._other_rows[row] * num_bytes)
                    pixels = others.read(num_bytes)
                crops.seek(self._crops.header_length + int(frame) * num_bytes)
                crops.write(pixels)

    def remove_others(self) -> None:
        """Remove the crops of other people."""
        (self.folder / OTHERS_FILE).unlink(missing_ok=True)

    def _add_other(self, row: int, crop: NDArray[np.uint8]) -> None:
        if self._others is None:
            self._others = self._stack.enter_context(NpyWriter(self.folder / OTHERS_FILE, row_shape=crop.shape))
        self._other_rows[row] = self._others.num_rows
        self._others.append(crop)

    def _add_context(self, picture: NDArray[np.uint8]) -> None:
        if self._context is None:
            writer = NpyWriter(self.folder / CONTEXT_FILE, row_shape=picture.shape)
            self._context = self._stack.enter_context(writer)
        self._context.append(_fit(picture, shape=self._context.row_shape))

    def _cut(self, rgb: NDArray[np.uint8], box: NDArray[np.float32] | None) -> NDArray[np.uint8] | None:
        settings = self.settings
        return crop_frame(rgb, box, kind=settings.crop, margin=settings.margin, size_px=settings.size_px)


def _fit(picture: NDArray[np.uint8], *, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a picture in the shape of the recording's first one: some recorders change size on the way."""
    if picture.shape == shape:
        return picture
    return np.asarray(cv2.resize(picture, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def no_frames() -> pd.DataFrame:
    """Return the table of a recording without a picture."""
    return _frame_table([], chosen=None, rows=np.empty(0, np.int64), qualities=[])


def _frame_table(
    times: Sequence[float],
    *,
    chosen: FaceTrack | None,
    rows: NDArray[np.int64],
    qualities: Sequence[tuple[float, ...]],
) -> pd.DataFrame:
    found = rows >= 0
    table = pd.DataFrame({"frame": np.arange(len(times)), "pts_s": np.asarray(times, np.float64), "face_found": found})
    values = np.full((len(times), len(FACE_COLUMNS)), np.nan, np.float32)
    quality = np.full((len(times), len(QUALITY_COLUMNS)), np.nan, np.float32)
    if chosen is not None:
        values[found] = _face_values(chosen)
        quality[found] = np.asarray(qualities, np.float32)[rows[found]]
    table[list(FACE_COLUMNS)] = values
    table["track"] = np.where(found, -1 if chosen is None else chosen.track, -1)
    table[list(QUALITY_COLUMNS)] = quality
    return table.astype({"frame": "int64", "face_found": "bool", "track": "int32"})


def _face_values(track: FaceTrack) -> NDArray[np.float32]:
    """Return `FACE_COLUMNS` of a track (N, 15)."""
    landmarks = track.landmarks_xy.reshape(len(track.frames), -1)
    return np.hstack([track.score[:, None], track.boxes_xyxy, landmarks]).astype(np.float32)


def _track_rows(track: FaceTrack) -> pd.DataFrame:
    table = pd.DataFrame(_face_values(track), columns=list(FACE_COLUMNS))
    table.insert(0, "pts_s", track.pts_s)
    table.insert(0, "frame", track.frames)
    table.insert(0, "track", track.track)
    return table


def tracks_of(table: pd.DataFrame) -> tuple[FaceTrack, ...]:
    """Return the people of a table of `TRACK_COLUMNS`, in the order of their numbers."""
    return tuple(
        FaceTrack(
            track=int(str(number)),
            frames=rows["frame"].to_numpy(np.int64),
            pts_s=rows["pts_s"].to_numpy(np.float64),
            boxes_xyxy=rows[list(BOX_COLUMNS)].to_numpy(np.float32),
            landmarks_xy=rows[list(LANDMARK_COLUMNS)].to_numpy(np.float32).reshape(-1, 5, 2),
            score=rows["score"].to_numpy(np.float32),
        )
        for number, rows in table.groupby("track", sort=True)
    )

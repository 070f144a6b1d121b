"""The overlay on the video: every sampled frame with its map, at its own time, as MP4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.progress import progress
from mien.core.storage import atomic_path
from mien.data.dataset import sample_ends
from mien.data.pictures import BOX_COLUMNS
from mien.explain.drawing import FRAME_CHARACTERS, FrameCaption, heading, overlay, scaled, wrapped
from mien.explain.frames import ExplainedFrame, Subject
from mien.explain.inputs import Answers
from mien.explain.methods import Method, make_maps
from mien.media.video import sample_frames
from mien.media.video_writer import VideoWriter
from mien.runtime.bundle import Bundle

BATCH = 8
MAX_WIDTH_PX = 1280


def write_annotated_video(
    path: Path,
    *,
    video: Path,
    answers: Answers,
    bundle: Bundle,
    subject: Subject,
    method: Method,
    layer: int | None,
    footer: Sequence[str],
) -> None:
    """Write the sampled frames of a video with their maps.

    Frames keep their own times, so the result has the sampling rate of the bundle (often one picture per second); a
    frame without a face is shown without a map. It has no sound.

    Args:
        path: The MP4 to write.
        video: The video that the answers are of.
        answers: What the bundle answered.
        bundle: The bundle.
        subject: What is explained.
        method: How maps are made.
        layer: Layer of `attention`.
        footer: Lines under each frame, below its answer.
    """
    maps = _all_maps(answers, bundle=bundle, subject=subject, method=method, layer=layer)
    times = answers.table["pts_s"].to_numpy(np.float64)
    ends = sample_ends(times, fps=bundle.spec.sampling.fps)
    boxes = answers.table[list(BOX_COLUMNS)].to_numpy(np.float64)
    below = wrapped(footer, characters=FRAME_CHARACTERS)
    caption: FrameCaption | None = None
    with (
        atomic_path(path) as temporary,
        VideoWriter(temporary, fps=bundle.spec.sampling.fps) as writer,
        progress(f"Drawing {path.name}", total=len(times)) as advance,
    ):
        width = None
        for row, (frame, (shown, values)) in enumerate(
            zip(sample_frames(video, fps=bundle.spec.sampling.fps), maps, strict=True)
        ):
            picture = frame.rgb
            if values is not None:
                levels = scaled(values, signed=method.signed)
                square = _seen_square(boxes[row], answers=answers, bundle=bundle, shape=picture.shape)
                picture = _paint(picture, levels, square=square, signed=method.signed)
            picture = _fitted(picture, width=width)
            width = picture.shape[1]
            caption = caption or FrameCaption(width_px=picture.shape[1])
            whole = np.vstack([picture, caption.draw((_line(shown, bundle=bundle, time_s=times[row]), *below))])
            writer.add(whole, pts_s=times[row], lasts_s=ends[row] - times[row])
            advance("")


def _line(shown: ExplainedFrame | None, *, bundle: Bundle, time_s: float) -> str:
    if shown is None:
        return f"no face at {time_s:.2f} s"
    answer = bundle.spec.labels.classes[shown.answer]
    return heading(answer=answer, probability=shown.probability, time_s=time_s)


def _all_maps(
    answers: Answers, *, bundle: Bundle, subject: Subject, method: Method, layer: int | None
) -> Iterator[tuple[ExplainedFrame | None, NDArray[np.float64] | None]]:
    """Yield each sampled frame with its map, in order; None where there is no face. A batch is in memory."""
    for start in range(0, len(answers.seen), BATCH):
        rows = range(start, min(start + BATCH, len(answers.seen)))
        frames = {row: answers.frame(row, bundle=bundle) for row in rows if answers.seen[row]}
        maps: dict[int, NDArray[np.float64]] = {}
        if frames:
            made = make_maps(method, subject, list(frames.values()), scheme=bundle.spec.labels, layer=layer)
            maps = dict(zip(frames, made, strict=True))
        for row in rows:
            yield frames.get(row), maps.get(row)


def _seen_square(
    box: NDArray[np.float64], *, answers: Answers, bundle: Bundle, shape: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """Return what the encoder sees of a frame, px: x0, y0, x1, y1; it may reach over the border.

    A crop is a square of `margin` times the box's longer side around its centre (`media.faces.crop_square`), of which
    an encoder looks at its own `crop` factor.
    """
    sampling = bundle.spec.sampling
    if sampling.crop == "none":
        return 0.0, 0.0, float(shape[1]), float(shape[0])
    if answers.panel is not None:
        box, factor = np.asarray(answers.panel.box_xyxy, np.float64), sampling.margin
    else:
        factor = min(sampling.margin, bundle.encoder.spec.crop)
    half = factor * max(box[2] - box[0], box[3] - box[1]) / 2
    across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return across - half, down - half, across + half, down + half


def _paint(
    rgb: NDArray[np.uint8],
    levels: NDArray[np.float64],
    *,
    square: tuple[float, float, float, float],
    signed: bool,
) -> NDArray[np.uint8]:
    """Lay a map over the part of a frame that it is of, with a thin outline."""
    x0, y0, x1, y1 = (round(value) for value in square)
    height, width = rgb.shape[:2]
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    result = rgb.copy()
    if right <= left or bottom <= top:
        return result
    side = max(x1 - x0, y1 - y0)
    values = cv2.resize(levels, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    # The square may reach over the border: what lies in the frame is copied to a canvas, painted, and copied back.
    canvas = np.zeros((side, side, 3), np.uint8)
    field = np.zeros((side, side))
    rows, columns = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
    canvas[rows, columns] = rgb[top:bottom, left:right]
    field[: y1 - y0, : x1 - x0] = values
    result[top:bottom, left:right] = overlay(canvas, field, signed=signed)[rows, columns]
    cv2.rectangle(result, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 1)
    return result


def _fitted(rgb: NDArray[np.uint8], *, width: int | None) -> NDArray[np.uint8]:
    width = width or min(MAX_WIDTH_PX, rgb.shape[1]) // 2 * 2
    if width == rgb.shape[1]:
        return rgb
    size = (width, max(2, round(rgb.shape[0] * width / rgb.shape[1])))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)

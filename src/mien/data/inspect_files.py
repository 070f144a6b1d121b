"""What single files hold, before anybody makes a study of them: media stream by stream, exports by what was read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.annotations.exports import Export
from mien.annotations.formats import read_export, recognised_format
from mien.core.errors import MediaError, UserError
from mien.core.progress import progress
from mien.core.storage import to_jsonable
from mien.data.layouts import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from mien.media.describe import MediaDescription, StreamDescription, describe_media

NUM_NAMED = 6
"""Labels and channels that a line names, before it counts the rest."""


def describe_files(paths: Sequence[Path], *, measure: bool = False) -> list[dict[str, Any]]:
    """Describe media files and exports, and those in folders; what can't be read says why.

    Args:
        paths: Files and folders.
        measure: Decode media, and say how many frames they really hold, and when.

    Returns:
        JSON-able rows, one per file: `file`, `kind` (`media`, `export` or `unknown`), `format`, `found` (a list of
        sentences), `problems` (likewise).

    Raises:
        UserError: A path isn't there.
    """
    files = [file for path in paths for file in _files(path)]
    rows = []
    with progress("reading", total=len(files)) as advance:
        for file in files:
            rows.append(to_jsonable(_describe(file, measure=measure)))
            advance(file.name)
    return rows


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"There is no {path}. Name a dataset, media files, exports, or folders of them.")
    if path.is_file() or recognised_format(path):
        return [path]
    inside = sorted(item for item in path.iterdir() if not item.name.startswith("."))
    return [file for item in inside for file in _files(item)]


def _describe(path: Path, *, measure: bool) -> dict[str, Any]:
    is_media = path.suffix.lower() in VIDEO_SUFFIXES | AUDIO_SUFFIXES
    try:
        if is_media:
            return _media_row(describe_media(path, measure=measure))
        return _export_row(read_export(path))
    except (MediaError, UserError) as error:
        kind = "media" if is_media else "unknown"
        return {"file": path, "kind": kind, "format": "", "found": [], "problems": [str(error)]}


def _media_row(media: MediaDescription) -> dict[str, Any]:
    found = [_stream_text(stream) for stream in media.streams]
    failures = [s.measured.failure for s in media.streams if s.measured is not None and s.measured.failure]
    damage = [
        f"stream {s.index}: {s.measured.num_corrupt} damaged packets and {s.measured.num_dropped} frames without a "
        "usable time were skipped"
        for s in media.streams
        if s.measured is not None and (s.measured.num_corrupt or s.measured.num_dropped)
    ]
    return {
        "file": media.path,
        "kind": "media",
        "format": media.container,
        "duration_s": media.duration_s,
        "found": found,
        "problems": [*failures, *damage],
    }


def _stream_text(stream: StreamDescription) -> str:
    parts = [f"{stream.kind} {stream.codec or 'without a decoder'}"]
    if stream.kind == "video":
        colour = " ".join(filter(None, (stream.pixel_format, stream.colour_range, stream.colour_matrix)))
        parts.append(f"{stream.width} x {stream.height} {colour}".rstrip())
        parts += [f"turned {stream.rotation_deg}°"] if stream.rotation_deg else []
        parts += ["mirrored"] if stream.mirrored else []
        parts += [f"{stream.fps_declared:.5g} fps declared"] if stream.fps_declared else []
    if stream.kind == "audio":
        parts.append(f"{stream.layout}, {stream.rate_hz} Hz")
    parts += [f"from {stream.start_s:.3f} s"] if stream.start_s is not None else []
    parts += [f"{stream.duration_s:.3f} s declared"] if stream.duration_s is not None else []
    parts += [_measured_text(stream)] if stream.measured is not None and not stream.measured.failure else []
    used = f" ({'used' if stream.chosen else 'not used'}: {stream.why})" if stream.why else ""
    return f"{stream.index}: {', '.join(parts)}{used}"


def _measured_text(stream: StreamDescription) -> str:
    measured = stream.measured
    assert measured is not None and measured.first_s is not None and measured.last_s is not None
    span = f"{measured.first_s:.3f} to {measured.last_s:.3f} s"
    if stream.kind == "audio":
        return f"sound {span}"
    text = f"{measured.num_frames} frames {span}"
    if measured.interval_s is None:
        return text
    low, middle, high = (1000 * value for value in measured.interval_s)
    return f"{text}, {measured.fps:.5g} fps, {low:.1f} / {middle:.1f} / {high:.1f} ms between them"


def _export_row(export: Export) -> dict[str, Any]:
    found = []
    intervals, segments = export.intervals, export.segments
    if len(intervals):
        span = f"{intervals['onset_s'].min():.3f} to {intervals['offset_s'].max():.3f} s"
        labels = intervals["label"].unique()
        found.append(f"{len(intervals)} intervals of {len(labels)} labels, {span}: {_named(labels)}")
    if len(segments):
        found.append(f"{len(segments)} segments: {_named(segments['segment'].unique())}")
    if export.signals:
        found.append(_signals_text(export))
    people = {*intervals["respondent"], *segments["respondent"], *(s.respondent for s in export.signals)} - {""}
    found += [f"{len(people)} respondents: {_named(sorted(people))}"] if people else []
    found += [f"annotated by {export.annotator}{' (a tool)' if export.tool else ''}"] if export.annotator else []
    found += [f"of the media {_named(export.media)}"] if export.media else []
    if export.needs_frame_times:
        found.append("numbered frames without times: in a study they get those of their recording")
    return {
        "file": export.path,
        "kind": "export",
        "format": export.format,
        "found": found,
        "problems": [problem.reason for problem in export.problems],
    }


def _signals_text(export: Export) -> str:
    names = list(dict.fromkeys(signal.name for signal in export.signals))
    size = sum(len(signal.times_s) for signal in export.signals)
    steps = [float(np.median(np.diff(signal.times_s))) for signal in export.signals if len(signal.times_s) > 1]
    rates = sorted({f"{1 / step:.3g}" for step in steps}, key=float)
    rate = "" if not rates else f" at {rates[0]} Hz" if len(rates) == 1 else f" at {rates[0]} to {rates[-1]} Hz"
    filled = [signal for signal in export.signals if len(signal.times_s)]
    span = ""
    if filled:
        start_s, end_s = min(s.times_s[0] for s in filled), max(s.times_s[-1] for s in filled)
        span = f", {start_s:.3f} to {end_s:.3f} s"
    return f"{len(names)} channels{rate}, {size} samples{span}: {_named(names)}"


def _named(names: Iterable[Any]) -> str:
    names = list(names)
    shown = ", ".join(str(name) for name in names[:NUM_NAMED])
    return f"{shown}, and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else shown

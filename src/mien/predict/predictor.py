"""A bundle on new recordings: files to timelines, events and pages, through the runtime alone (no torch).

Every video is done or not: what it needs is written first, `<name>.predicted.json` last. So a run that was killed goes
on with the first video that isn't done, and one that failed leaves nothing old behind.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mien.core.errors import UserError
from mien.core.progress import say
from mien.core.storage import write_csv, write_parquet, write_text
from mien.media.container import has_video
from mien.predict.annotated_copy import write_annotated_copy
from mien.predict.elan_timeline import announce_elan, write_elan_timeline
from mien.predict.outputs import (
    Job,
    Options,
    check_copies,
    check_name,
    check_writable,
    find_jobs,
    finished_result,
    identity_of,
    may_write,
    remove_results,
    shown,
    write_stamp,
)
from mien.predict.recording import Prediction, counted, predict_recording, predict_timeline
from mien.predict.seeing import check_long_enough, picture_settings, sample_crops
from mien.predict.timeline_events import TimelineEvents, announce_events, timeline_events, write_events
from mien.predict.timeline_page import timeline_page
from mien.predict.truth import (
    NO_EVIDENCE,
    add_truth,
    agreement,
    agreement_lines,
    annotations_of,
    truth_table,
)
from mien.runtime.bundle import Bundle

__all__ = [
    "AllFailedError",
    "check_long_enough",
    "picture_settings",
    "predict_files",
    "predict_timeline",
    "sample_crops",
]

FAILURES_FILE = "failures.csv"
MOSTLY = 0.5
"""Above this share of abstentions the user is told at once, not only on the page."""


class AllFailedError(UserError):
    """No video could be predicted.

    Attributes:
        results: What `predict_files` would have returned.
    """

    def __init__(self, results: list[dict[str, Any]]) -> None:
        self.results = results
        errors = [str(item["error"]) for item in results]
        many = f"None of {len(errors)} videos could be predicted."
        super().__init__(errors[0] if len(errors) == 1 else "\n  ".join([many, *errors]))


@dataclass
class _Written:
    """What was made of a video so far.

    Attributes:
        facts: What its result says.
        keys: Files that are written, of `outputs.SUFFIXES`.
        problems: What is wrong with the video or was left out, though it is predicted.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def predict_files(
    model: Path | Bundle,
    *,
    videos: Sequence[Path],
    out: Path,
    elan: bool = False,
    signals: Sequence[Path] = (),
    purpose: str = "",
    video: bool = False,
    blur: bool = False,
    annotations: Path | None = None,
) -> list[dict[str, Any]]:
    """Predict each video and write `<name>.timeline.csv` and `.parquet`, `<name>.events.csv` and `<name>.html`.

    A video whose results are there, whole, of the same bundle and options isn't predicted again.

    Args:
        model: Folder of the bundle, or the bundle where it is open already.
        videos: Videos, and folders whose recordings are meant; one that can't be read is reported and doesn't stop the
            others.
        out: Folder for the results.
        elan: Also write `<name>.eaf`, for a person to correct in ELAN.
        signals: Sensor exports, one per video in their order, for a model that looks at signals; none: it goes without.
        purpose: What it is predicted for; some purposes are refused.
        video: Also write `<name>.mp4`, the video with its sound and what is predicted drawn under it.
        blur: Cover all faces in that video; it is written then without `video`, too.
        annotations: An export, a dataset or a study that says what is annotated of the videos; it is written and shown
            beside the prediction, with `<name>.truth.csv`.

    Returns:
        Per video: video, and frames, faces, abstained (frames), timeline, timeline_parquet, plot, events (None where
        none can be said), problem (what was lost of it; empty), and elan, annotated, truth, agreement where they were
        asked for; or error, where it can't be predicted.

    Raises:
        UserError: Not a bundle, no video, another number of exports than of videos, or a folder that can't be written.
        AllFailedError: No video could be predicted.
        RefusedError: A purpose of hiring, employment or education.
    """
    bundle = model if isinstance(model, Bundle) else Bundle.open(model)
    bundle.check_use(purpose=purpose)
    options = Options(elan=elan, video=video or blur, blur=blur, annotations=annotations)
    jobs = find_jobs(videos, out=out, signals=signals, bundle=bundle)
    if not jobs:
        raise UserError("No video given.")
    if options.video:
        check_copies(jobs)
    check_writable(out)
    announce_events(bundle.spec)
    if options.elan:
        announce_elan(bundle.spec)
    results = [_result(bundle, job, options=options) for job in jobs]
    _tell_failures(results, out=out)
    if all("error" in item for item in results):
        raise AllFailedError(results)
    return results


def _result(bundle: Bundle, job: Job, *, options: Options) -> dict[str, Any]:
    """Predict a video unless it is done; an error of the user's or of the file is its result."""
    try:
        check_name(job.video)
        identity = identity_of(job, bundle=bundle, options=options)
        if (done := finished_result(job, identity=identity)) is not None:
            say(f"{job.video}: its results are there already, of this bundle.")
            return done
        remove_results(job)
        written = _write_results(bundle, job, options=options)
        return write_stamp(job, identity=identity, facts=written.facts, keys=written.keys)
    except UserError as error:
        reason = str(error)
    except OSError as error:
        reason = _disk_trouble(job, error=error)
    with contextlib.suppress(OSError):
        remove_results(job)
    return {"video": shown(job.video), "error": reason}


def _disk_trouble(job: Job, *, error: OSError) -> str:
    """Say what is wrong with a disk, or with the right to write to it; another video may have more luck."""
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"{job.video.name} can't be predicted, or its results not be written to {job.out}: {error.strerror}{where}. "
        f"Free some space, or name another folder: --out, and TMPDIR for temporary files (now {tempfile.gettempdir()})."
    )


def _tell_failures(results: Sequence[dict[str, Any]], *, out: Path) -> None:
    """Say and write what failed and what was lost of videos; without any, no file of an earlier run stays."""
    rows = [
        {"video": item["video"], "predicted": "error" not in item, "reason": item.get("error") or item["problem"]}
        for item in results
        if item.get("error") or item["problem"]
    ]
    path = out / FAILURES_FILE
    if not rows:
        with contextlib.suppress(OSError):  # it isn't there, where nothing can be written
            path.unlink(missing_ok=True)
        return
    try:
        write_csv(path, pd.DataFrame(rows))
    except OSError as error:
        say(f"{path} can't be written: {error.strerror}.")
    failed = [row for row in rows if not row["predicted"]]
    if failed and len(failed) < len(results):
        for row in failed:
            say(f"Not predicted: {row['reason']}")
        say(f"{len(failed)} of {len(results)} videos could not be predicted; {path} says why.")


def _write_results(bundle: Bundle, job: Job, *, options: Options) -> _Written:
    """Predict a video and write all that is made of it but the stamp."""
    written = _Written()
    tables = None
    if options.annotations is not None:
        try:
            tables = annotations_of(options.annotations, video=job.video, is_alone=job.is_alone)
        except UserError as error:
            written.problems.append(f"Nothing is shown beside the prediction. {error}")
    prediction = predict_recording(bundle, job.video, signals=job.signals)
    if prediction.damage:
        written.problems.append(f"{job.video.name}: {prediction.damage}; what is there is predicted.")
    timeline = prediction.timeline
    if tables is not None:
        try:
            timeline = add_truth(timeline, tables, labels=bundle.spec.labels)
        except UserError as error:
            written.problems.append(f"Nothing is shown beside the prediction. {error}")
    events = timeline_events(timeline, spec=bundle.spec)
    _write_tables(bundle, job, timeline=timeline, events=events, written=written)
    if options.elan and may_write(job, "elan"):
        write_elan_timeline(job.path("elan"), timeline, spec=bundle.spec, video=job.video, events=events)
        written.keys.append("elan")
    if options.video:
        _write_copy(bundle, job, prediction=prediction, events=events, options=options, written=written)
    problem = " ".join(written.problems)
    for text in written.problems:
        say(text)
    _tell_abstentions(job, timeline)
    written.facts = {
        "frames": len(timeline),
        "faces": int(timeline["face_found"].sum()),
        "abstained": int((~counted(timeline)).sum()),
        **written.facts,
        "problem": problem,
    }
    return written


def _write_tables(
    bundle: Bundle, job: Job, *, timeline: pd.DataFrame, events: TimelineEvents, written: _Written
) -> None:
    """Write timeline, events, truth, and the page."""
    labels = bundle.spec.labels
    rounded = timeline.round({"start_s": 6, "end_s": 6})
    write_csv(job.path("timeline"), rounded)
    write_parquet(job.path("timeline_parquet"), rounded)
    written.keys += ["timeline", "timeline_parquet", "plot"]
    if write_events(job.path("events"), events, video=job.video) is not None:
        written.keys.append("events")
    beside = []
    if any(str(column).startswith("truth_") for column in timeline):
        write_csv(job.path("truth"), truth_table(rounded, labels=labels))
        written.keys.append("truth")
        written.facts["agreement"] = agreement(timeline, labels=labels)
        beside = [*agreement_lines(written.facts["agreement"]), NO_EVIDENCE]
        for line in beside:
            say(line)
    page = timeline_page(
        timeline,
        spec=bundle.spec,
        title=job.video.name,
        events=events,
        beside=beside,
        notes=written.problems,
    )
    write_text(job.path("plot"), page)


def _write_copy(
    bundle: Bundle,
    job: Job,
    *,
    prediction: Prediction,
    events: TimelineEvents,
    options: Options,
    written: _Written,
) -> None:
    if not has_video(job.video):
        written.problems.append(f"{job.video.name} has no picture, so there is no annotated video.")
        return
    if not may_write(job, "annotated"):
        return
    problem = write_annotated_copy(
        job.path("annotated"), video=job.video, prediction=prediction, events=events, bundle=bundle, blur=options.blur
    )
    if problem:
        written.problems.append(f"{job.path('annotated').name}: {problem}")
    written.keys.append("annotated")


def _tell_abstentions(job: Job, timeline: pd.DataFrame) -> None:
    """Say why little or nothing is said of a video."""
    silent = timeline.loc[~counted(timeline), "abstained"]
    if not len(timeline) or len(silent) <= MOSTLY * len(timeline):
        return
    share = f"{len(silent)} of {len(timeline)} sampled frames"
    main = str(silent.value_counts().index[0])
    if len(silent) == len(timeline) and (silent == main).all():
        say(f"{job.video}: {main} was found in any of {len(timeline)} sampled frames, so nothing is predicted."
            if main.startswith("no ") else f"{job.video}: no sampled frame counts ({main}).")  # fmt: skip
    else:
        say(f"{job.video}: {share} don't count, most of them because of: {main}.")

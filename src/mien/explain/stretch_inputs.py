"""What is explained of models of stretches of time: recordings as their windows see them, and the surest moments."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.progress import progress, say
from mien.data.dataset import Dataset, sample_ends
from mien.explain.frames import answer_probabilities, most_confident
from mien.explain.inputs import NoFaceError, check_crops, draw_participants, features_of, video_answers
from mien.predict.beside import read_beside, sampled_times
from mien.runtime.bundle import Bundle
from mien.runtime.windows import VIDEO, Inputs, RecordingView, cut_windows

PER_PARTICIPANT = 4
"""Moments of each participant of a dataset: two of each answer of a binary target."""


@dataclass(frozen=True)
class Stretch:
    """The surest moments of one recording.

    Attributes:
        recording_id: The recording.
        participant_id: The person.
        rows: (N,) numbers of the sampled frames, by time.
        times_s: (N,) their times, s.
        inputs: N windows around them.
        answers: (N,) code of each answer.
        probabilities: (N,) of the answers.
    """

    recording_id: str
    participant_id: str
    rows: NDArray[np.int64]
    times_s: NDArray[np.float64]
    inputs: Inputs
    answers: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def recording_stretch(bundle: Bundle, source: Path, *, count: int, signals: Path | None) -> Stretch:
    """Return the most confident moments of a file, of each answer in turn.

    A recording without a face is explained by what else the model looks at.

    Args:
        bundle: Its head is a `SequenceHead`.
        source: A video, or for a model that only listens a sound file.
        count: How many moments.
        signals: Sensor export of the recording.

    Raises:
        UserError: The recording has nothing of what the model looks at.
    """
    fps = bundle.spec.sampling.fps
    pts_s, features = _seen(bundle, source)
    end_s = float(sample_ends(pts_s, fps=fps)[-1]) if len(pts_s) else 0.0
    beside = read_beside(bundle, source, end_s=end_s, signals=signals)
    audio = None if beside.sound is None else beside.sound.whole()
    view = bundle.recording_view(features, pts_s=pts_s, audio=audio, signals=beside.signals)
    found = _stretch(bundle, view, recording_id=source.stem, participant_id=source.stem, count=count)
    if found is None:
        raise UserError(f"{source.name} has no moment from which {bundle.spec.label} predicts anything.")
    return found


def _seen(bundle: Bundle, source: Path) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the times (F,) of a file's sampled frames and its features (F, D); None where no face is seen."""
    if bundle.needs_pictures:
        try:
            with contextlib.ExitStack() as stack:
                seen = stack.enter_context(video_answers(bundle, source))
                return seen.table["pts_s"].to_numpy(np.float64), seen.features
        except NoFaceError:
            if bundle.spec.modalities == (VIDEO,):
                raise
            say(f"{source.name}: no face in any sampled frame; the model is explained without.")
    return sampled_times(source, fps=bundle.spec.sampling.fps).pts_s, None


def dataset_stretches(bundle: Bundle, path: Path, *, participants: int, seed: int) -> list[Stretch]:
    """Return the most confident moments of some participants of a dataset, of a recording of each.

    Args:
        bundle: Its head is a `SequenceHead`.
        path: What `mien prepare` wrote, at the bundle's frames per second and with its crops.
        participants: How many participants; drawn where there are more.
        seed: Of the draw.

    Raises:
        UserError: No dataset, or one that was prepared otherwise; or nobody has what the model looks at.
    """
    dataset = Dataset.open(path)
    if bundle.needs_pictures:
        check_crops(bundle, dataset)
    if dataset.fps != bundle.spec.sampling.fps:
        raise UserError(
            f"{path} has {dataset.fps:g} frames per second; {bundle.spec.label} looks at stretches of "
            f"{bundle.spec.sampling.fps:g} per second. Prepare the study with --fps {bundle.spec.sampling.fps:g}."
        )
    people = draw_participants(dataset, participants=participants, seed=seed)
    stretches = []
    with progress("Predicting participants", total=len(people)) as advance:
        for person, name in people:
            view = _dataset_view(bundle, dataset, name)
            if view is not None:
                found = _stretch(bundle, view, recording_id=name, participant_id=person, count=PER_PARTICIPANT)
                stretches += [] if found is None else [found]
            advance(person)
    if len(stretches) < len(people):
        say(f"{len(people) - len(stretches)} of {len(people)} participants have too little of what the model looks at.")
    if not stretches:
        raise UserError(f"None of the {len(people)} participants of {path} has what {bundle.spec.label} looks at.")
    return stretches


def _dataset_view(bundle: Bundle, dataset: Dataset, name: str) -> RecordingView | None:
    """Return a recording as the windows see it; None where the face is seen too shortly for the personal baseline."""
    features = None
    if bundle.needs_pictures:
        seen = dataset.has_crop(name) if dataset.has_pictures(name) else np.zeros(0, np.bool_)
        if 0 < seen.sum() / dataset.fps < bundle.baseline.needed_s:
            return None
        features = features_of(bundle, crops=dataset.crops(name), seen=seen) if seen.any() else None
    return bundle.recording_view(
        features,
        pts_s=dataset.frames(name)["pts_s"].to_numpy(np.float64),
        audio=dataset.audio(name) if bundle.needs_sound else None,
        signals=dataset.signals(name) if bundle.needs_signals else None,
    )


def _stretch(
    bundle: Bundle, view: RecordingView, *, recording_id: str, participant_id: str, count: int
) -> Stretch | None:
    """Return the most confident moments of a recording; None where there is nothing to predict from."""
    scheme, head = bundle.spec.labels, bundle.sequence_head
    assert head is not None, "a bundle that looks at stretches of time"
    logits = head.recording_logits(view)
    rows = np.flatnonzero(~np.isnan(logits).any(axis=1))
    if not len(rows):
        return None
    answers = scheme.predicted(scheme.probabilities(logits[rows]))
    probabilities = answer_probabilities(logits[rows], answers=answers, scheme=scheme)
    picked = most_confident(answers, probabilities, count=count)
    return Stretch(
        recording_id=recording_id,
        participant_id=participant_id,
        rows=rows[picked],
        times_s=view.pts_s[rows[picked]],
        inputs=cut_windows(view, rows[picked], spec=head.windows),
        answers=answers[picked],
        probabilities=probabilities[picked],
    )

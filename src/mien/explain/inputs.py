"""What is explained: a video's, a picture's or a dataset's crops, made as prediction makes them, with their answers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import MediaError, UserError
from mien.core.progress import progress, say
from mien.core.types import Face
from mien.data.dataset import INFO_FILE, Dataset
from mien.data.pictures import CROPS_FILE, make_pictures
from mien.explain.frames import ExplainedFrame, answer_probabilities, most_confident
from mien.media.detectors import FaceDetector, make_detector
from mien.media.faces import crop_frame
from mien.media.panel import Panel
from mien.media.video import probe_video
from mien.predict.predictor import check_long_enough, picture_settings
from mien.runtime.bundle import Bundle
from mien.runtime.encoders import view_crops

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
CROP_BLOCK = 64
PER_PARTICIPANT = 2
"""Frames of each participant of a dataset: one of each answer of a binary target."""

InputKind = Literal["video", "picture", "dataset"]


class NoFaceError(MediaError):
    """A recording in which no face was found."""


@dataclass(frozen=True)
class Answers:
    """A recording's crops and what the bundle answers.

    Attributes:
        recording_id: The recording.
        participant_id: The person.
        table: Row per sampled frame: pts_s, face_found, and the face's box (px) where it comes from a video.
        crops: (N, size, size, 3) uint8 with margin, memory-mapped where they are of a recording.
        seen: (N,) which frames have a crop.
        features: (N, D) before the personal baseline; NaN where there is no crop.
        references: (N, D) what the personal baseline subtracts; NaN where there is no crop.
        logits: (N, num_outputs); NaN where there is no crop.
        panel: The camera's panel, where crops are of one.
    """

    recording_id: str
    participant_id: str
    table: pd.DataFrame
    crops: NDArray[np.uint8]
    seen: NDArray[np.bool_]
    features: NDArray[np.float64]
    references: NDArray[np.float64]
    logits: NDArray[np.float64]
    panel: Panel | None = None

    def frame(self, row: int, *, bundle: Bundle, has_time: bool = True) -> ExplainedFrame:
        """Return one sampled frame with its answer."""
        scheme, encoder = bundle.spec.labels, bundle.encoder.spec
        logits = self.logits[row]
        answer = scheme.predicted(scheme.probabilities(logits[None]))
        crop = np.asarray(self.crops[row : row + 1])
        return ExplainedFrame(
            recording_id=self.recording_id,
            participant_id=self.participant_id,
            row=row,
            time_s=float(self.table["pts_s"].iloc[row]) if has_time else None,
            pixels=view_crops(crop, margin=bundle.view_margin, crop=encoder.crop, size_px=encoder.size_px)[0],
            reference=self.references[row],
            logits=logits,
            answer=int(answer[0]),
            probability=float(answer_probabilities(logits[None], answers=answer, scheme=scheme)[0]),
        )

    def confident_rows(self, *, bundle: Bundle, count: int) -> NDArray[np.int64]:
        """Return the rows of the most confident frames of each answer in turn, by time."""
        scheme = bundle.spec.labels
        rows = np.flatnonzero(self.seen)
        answers = scheme.predicted(scheme.probabilities(self.logits[rows]))
        probabilities = answer_probabilities(self.logits[rows], answers=answers, scheme=scheme)
        return np.asarray(rows[most_confident(answers, probabilities, count=count)], np.int64)


def kind_of(path: Path) -> InputKind:
    """Say what an input is.

    Raises:
        UserError: Nothing is there, or a folder that isn't a dataset.
    """
    if path.is_dir():
        if (path / INFO_FILE).is_file() or (path / "recordings").is_dir():
            return "dataset"
        raise UserError(f"{path} is a folder but no dataset. Give a video, a picture, or what `mien prepare` wrote.")
    if not path.is_file():
        raise UserError(f"No file or folder at {path}. Give a video, a picture, or a dataset.")
    return "picture" if path.suffix.lower() in PICTURE_SUFFIXES else "video"


def answer(
    bundle: Bundle,
    *,
    recording_id: str,
    participant_id: str,
    table: pd.DataFrame,
    crops: NDArray[np.uint8],
    seen: NDArray[np.bool_],
    panel: Panel | None = None,
) -> Answers:
    """Ask the bundle for the logits of a recording's crops, and keep what its personal baseline subtracts."""
    whole = features_of(bundle, crops=crops, seen=seen)
    pts_s = table["pts_s"].to_numpy(np.float64)
    return Answers(
        recording_id=recording_id,
        participant_id=participant_id,
        table=table,
        crops=crops,
        seen=seen,
        features=whole,
        references=whole - bundle.baseline.subtract(whole, pts_s=pts_s),
        logits=bundle.logits(whole, pts_s=pts_s),
        panel=panel,
    )


def features_of(bundle: Bundle, *, crops: NDArray[np.uint8], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the features (N, D) of a recording's crops before the personal baseline; NaN where nothing is seen."""
    rows = np.flatnonzero(seen)
    blocks = [rows[start : start + CROP_BLOCK] for start in range(0, len(rows), CROP_BLOCK)]
    features = np.concatenate([bundle.features(np.asarray(crops[block])) for block in blocks])
    whole = np.full((len(seen), features.shape[1]), np.nan)
    whole[rows] = features
    return whole


@contextlib.contextmanager
def video_answers(bundle: Bundle, video: Path) -> Iterator[Answers]:
    """Sample a video as `mien predict` does, and ask the bundle; the crops last as long as the context.

    Raises:
        MediaError: The video can't be read, or shows no face (`NoFaceError`).
        UserError: It shows a face for too short a time for the bundle's personal baseline.
    """
    bundle.baseline.check_new_recording()
    sampling = bundle.spec.sampling
    settings = picture_settings(sampling)
    duration_s = probe_video(video).duration_s
    total = max(1, round(duration_s * sampling.fps)) if duration_s else 0
    with tempfile.TemporaryDirectory(prefix="mien-") as name:
        with progress(f"Sampling {video.name}", total=total) as advance:
            made = make_pictures(
                video, settings=settings, detector=_detector(bundle), folder=Path(name), sampled=lambda: advance("")
            )
        found = made.frames["face_found"].to_numpy(bool)
        seen = found if sampling.crop == "face" else np.ones_like(found)
        _check_faces(bundle, video, num_seen=int(seen.sum()), num_frames=len(seen))
        yield answer(
            bundle,
            recording_id=video.stem,
            participant_id=video.stem,
            table=made.frames,
            crops=np.load(Path(name) / CROPS_FILE, mmap_mode="r"),
            seen=seen,
            panel=made.panel,
        )


def _check_faces(bundle: Bundle, video: Path, *, num_seen: int, num_frames: int) -> None:
    if not num_seen:
        raise NoFaceError(
            f"No face was found in any of {num_frames} sampled frames of {video.name}, so there is nothing to explain",
            advice="Use a recording that shows the participant's face.",
        )
    check_long_enough(bundle, video, num_faces=num_seen)


def picture_answers(bundle: Bundle, path: Path) -> Answers:
    """Cut the face out of a picture and ask the bundle.

    Raises:
        MediaError: It can't be read, or shows no face.
        UserError: The bundle has a personal baseline, which one picture can't give.
    """
    if bundle.baseline.kind != "none":
        raise UserError(
            f"{bundle.spec.label} reads a face against the same person's other frames (personal baseline "
            f"{bundle.baseline}); a single picture has none. Give a video, or a bundle without a baseline."
        )
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if stored is None:
        raise MediaError(f"{path.name} can't be read as a picture", advice="Save it as PNG or JPEG, or give a video.")
    rgb = np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), np.uint8)
    sampling = bundle.spec.sampling
    faces = _detector(bundle).detect(rgb) if sampling.crop != "none" else []
    if not faces and sampling.crop != "none":
        raise MediaError(f"No face was found in {path.name}", advice="Use a picture that shows the face.")
    box = _wanted(faces, choice=sampling.face).box_xyxy if faces else None
    crop = crop_frame(rgb, box, kind=sampling.crop, margin=sampling.margin, size_px=sampling.size_px)
    assert crop is not None, "there is a box where one is needed"
    table = pd.DataFrame({"frame": [0], "pts_s": [0.0], "face_found": [bool(faces)]})
    return answer(
        bundle,
        recording_id=path.stem,
        participant_id=path.stem,
        table=table,
        crops=crop[None],
        seen=np.ones(1, bool),
    )


def _wanted(faces: Sequence[Face], *, choice: str) -> Face:
    if choice == "main":
        return max(faces, key=lambda face: float(np.prod(face.box_xyxy[2:] - face.box_xyxy[:2])) * face.score)
    return sorted(faces, key=lambda face: float(face.box_xyxy[0] + face.box_xyxy[2]))[0 if choice == "left" else -1]


def dataset_frames(bundle: Bundle, path: Path, *, participants: int, seed: int) -> list[ExplainedFrame]:
    """Return the most confident frame of each answer of some participants of a dataset.

    Args:
        bundle: The bundle.
        path: What `mien prepare` wrote, with crops as the bundle's.
        participants: How many participants; drawn where there are more.
        seed: Of the draw.

    Raises:
        UserError: No dataset, or one with other crops; or no participant can be explained.
    """
    dataset = Dataset.open(path)
    check_crops(bundle, dataset)
    people = draw_participants(dataset, participants=participants, seed=seed)
    frames: list[ExplainedFrame] = []
    left_out = 0
    with progress("Predicting participants", total=len(people)) as advance:
        for person, name in people:
            seen = dataset.has_crop(name)
            if seen.sum() / dataset.fps < max(bundle.baseline.needed_s, 1e-9):
                left_out += 1
            else:
                answers = answer(
                    bundle,
                    recording_id=name,
                    participant_id=person,
                    table=dataset.frames(name),
                    crops=dataset.crops(name),
                    seen=seen,
                )
                rows = answers.confident_rows(bundle=bundle, count=PER_PARTICIPANT)
                frames += [answers.frame(int(row), bundle=bundle) for row in rows]
            advance(person)
    if left_out:
        say(f"{left_out} of {len(people)} participants show a face for too short a time and are left out.")
    if not frames:
        raise UserError(f"None of the {len(people)} participants of {path} shows a face for long enough.")
    return frames


def draw_participants(dataset: Dataset, *, participants: int, seed: int) -> list[tuple[str, str]]:
    """Return participants with one recording of each, in order of their names; drawn where there are more."""
    recordings = dataset.recordings[dataset.recordings["num_frames"] > 0]
    of_person = recordings.groupby(recordings["participant_id"].astype(str))["recording_id"].first()
    people = sorted(of_person.index)
    if len(people) > participants:
        people = sorted(np.random.default_rng(seed).choice(people, size=participants, replace=False).tolist())
    return [(person, str(of_person[person])) for person in people]


def check_crops(bundle: Bundle, dataset: Dataset) -> None:
    """Refuse a dataset whose crops aren't those that a bundle was trained on.

    Raises:
        UserError: They differ, or the bundle's personal baseline needs more than a recording.
    """
    sampling = bundle.spec.sampling
    bundle.baseline.check_new_recording()
    came = (dataset.crop, float(dataset.info["config"]["margin"]))
    wanted = (sampling.crop, sampling.margin)
    if came != wanted:
        raise UserError(
            f"{dataset.path} has crops of {came[0]!r} with margin {came[1]:g}; the bundle expects {wanted[0]!r} with "
            f"{wanted[1]:g}. Prepare the study with the same settings, or give a video."
        )


def _detector(bundle: Bundle) -> FaceDetector:
    return make_detector(bundle.spec.sampling.detector, weights=bundle.detector_weights)  # type: ignore[arg-type]

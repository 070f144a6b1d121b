"""T7: honest nulls of the audit's content checks. Labels are shifted circularly within each recording, evenly over all
shifts, so that neither the pictures nor the time know anything of them: how often does a check alarm all the same?

Drawn features always; real ones (the smile study, if it is in ../shared) in the full version, with the product's own
readers and its own decisions.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from mien.audit.hidden_face import HiddenFaces, HiddenScore, SmallPixels, check_hidden_face, hidden_face_name
from mien.audit.hidden_pictures import hidden_features, view_of
from mien.audit.nuisances import NUISANCE_C, check_nuisances, nuisance_features, nuisance_name, time_features
from mien.core.labels import LabelScheme
from mien.core.weights import WEIGHTS_VARIABLE
from mien.data.clips import ClipIndex, build_clips
from mien.data.splits import make_folds
from mien.evaluation.grouped import features_of_frames, grouped_interval, out_of_fold
from mien.evaluation.probe import ProbeConfig
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import HogEncoder, find_encoder
from mien.runtime.material import UNLABELLED, Material

from .classifier import drifting_noise, markov_labels
from .rows import Row

SEED = 707
FOLDS = 5
FRAMES = 40
AUTOCORRELATION = 0.8
WIDTH = 24  # features of each drawn reader
SIGNAL = 0.8  # shift of one drawn feature by a label that is in the pixels
PARTICIPANTS = (10, 20, 40)
REAL_PARTICIPANTS = (10, 40)
BASELINES = (PersonalBaseline(), PersonalBaseline("recording"))
SCHEME = LabelScheme("Drawn", "binary", ("not Drawn", "Drawn"), "synthetic")
FULL_ROUNDS = 200  # from so many on it is the full version, which takes the real features, too
SHARED = Path(__file__).parents[3] / "shared/data"
ALARMS = "≤ .10"


@dataclass(frozen=True)
class Features:
    """Features of all frames of some people, before any label.

    Attributes:
        frames: As `Material.frames_of` gives them.
        readers: Features (N, D) of pictures whose face is hidden, by the reader's name.
        nuisances: (N, D).
    """

    frames: pd.DataFrame
    readers: dict[str, np.ndarray]
    nuisances: np.ndarray


def content_nulls(rounds: int) -> list[Row]:
    """T7 on drawn features, and in the full version on those of the smile study where it is here."""
    rows = drawn_nulls(rounds)
    if rounds >= FULL_ROUNDS and (SHARED / "smile_study").is_dir():
        weights = {WEIGHTS_VARIABLE: str(SHARED / "weights")}
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, weights):
            encoders = [find_encoder("efficientnet_lite0")]
            rows += real_nulls(rounds, dataset=prepare_smile_study(Path(folder) / "dataset"), encoders=encoders)
    return rows


def drawn_nulls(rounds: int) -> list[Row]:
    """Readers with person offsets and drifting noise; time is among the nuisances. Once the label is drawn in."""
    rows = []
    for participants in PARTICIPANTS if rounds >= FULL_ROUNDS else PARTICIPANTS[:1]:
        alarms = np.array([_drawn(participants, number=number, signal=0.0) for number in range(rounds)])
        rows += _rows(f"drawn, P = {participants}", alarms)
    seen = np.array([_drawn(10, number=number, signal=SIGNAL) for number in range(rounds)])
    setting = "drawn, P = 10, label in the pixels"
    return [*rows, Row(setting, "label-in-pixels alarms", float(seen[:, 1].mean()), rounds, "≥ .90", 0.9, 1.0)]


def real_nulls(rounds: int, *, dataset, participants=REAL_PARTICIPANTS, encoders=()) -> list[Row]:
    """Shifted labels of `Smile` against the real features of people drawn from the study."""
    clips = build_clips(dataset, target="Smile")
    features = real_features(dataset, clips, encoders=encoders)
    people = np.array(sorted(clips.table["participant_id"].unique()), dtype=object)
    rows = []
    for count in participants:
        alarms = []
        for number in range(rounds):
            generator = np.random.default_rng([SEED, 1, count, number])
            chosen = set(generator.choice(people, count, replace=False))
            kept = clips.table["participant_id"].isin(chosen)
            own = ClipIndex(clips.scheme, shifted(clips.table[kept], generator), clips.excluded)
            rows_kept = features.frames["participant_id"].isin(chosen).to_numpy()
            alarms.append(alarmed(own, _select(features, rows_kept), seed=number))
        rows += _rows(f"smile study, P = {count}", np.array(alarms))
    return rows


def prepare_smile_study(out: Path):
    """Prepare the respondent cameras of the smile study, two samples per second."""
    from mien.data.prepare import prepare
    from mien.data.settings import PrepareConfig

    return prepare(SHARED / "smile_study", out=out, config=PrepareConfig(fps=2.0, detector="auto"))


def real_features(dataset, clips: ClipIndex, *, encoders=()) -> Features:
    """Features of all frames of the clips' people, computed once."""
    frames = Material(dataset, clips).frames_of(sorted(clips.table["participant_id"].unique()))
    view = view_of(dataset, camera="camera")
    readers = {
        encoder.spec.name: features_of_frames(
            frames,
            of=lambda name, encoder=encoder: hidden_features(dataset, name, encoder=encoder, view=view),
        )
        for encoder in (HogEncoder(), SmallPixels(), *encoders)
    }
    return Features(frames, readers, nuisance_features(dataset, frames))


def shifted(table: pd.DataFrame, generator) -> pd.DataFrame:
    """Shift the labels of each recording circularly, by any number of clips with equal chance."""
    targets = table["target"].to_numpy(np.int64).copy()
    for rows in table.groupby("recording_id", sort=True).indices.values():
        targets[rows] = np.roll(targets[rows], int(generator.integers(len(rows))))
    return table.assign(target=targets)


def alarmed(clips: ClipIndex, features: Features, *, seed: int) -> tuple[bool, bool]:
    """Return whether the nuisance check and the label-in-pixels check alarm, as the audit decides."""
    splits = make_folds(clips, folds=FOLDS, seed=seed)
    target_of = clips.table["target"].reindex(features.frames["row"]).fillna(UNLABELLED)
    frames = features.frames.assign(target=target_of.to_numpy(np.int64))
    given = {"clips": clips, "splits": splits}
    scores, tables = [], {}
    for baseline in BASELINES:
        name = nuisance_name(baseline)
        tables[name] = out_of_fold(features.nuisances, frames, baseline=baseline, C=NUISANCE_C, model=name, **given)
        for reader, values in features.readers.items():
            model = hidden_face_name(baseline)
            table = out_of_fold(values, frames, baseline=baseline, C=ProbeConfig().C, model=model, **given)
            interval = grouped_interval(table, clips.scheme, folds=FOLDS)
            scores.append(HiddenScore("camera", reader, baseline, interval, table))
    hidden = check_hidden_face(HiddenFaces(tuple(scores), {"camera": 1.0}, {}), **given)
    return check_nuisances(tables, **given).severity == "warn", hidden.severity == "warn"


def _drawn(participants: int, *, number: int, signal: float) -> tuple[bool, bool]:
    generator = np.random.default_rng([SEED, participants, number, round(signal * 100)])
    labels = markov_labels(generator, participants=participants, frames=FRAMES, autocorrelation=AUTOCORRELATION)
    readers = {}
    for reader in ("hog", "small_pixels", "network"):
        noise = drifting_noise(generator, shape=(*labels.shape, WIDTH), autocorrelation=AUTOCORRELATION)
        values = noise + generator.normal(size=(participants, 1, WIDTH))
        values[..., 0] += signal * (2 * labels - 1)
        readers[reader] = values.reshape(-1, WIDTH)
    drift = drifting_noise(generator, shape=(*labels.shape, 7), autocorrelation=AUTOCORRELATION).reshape(-1, 7)
    clips, frames = drawn_clips(labels)
    if not signal:
        clips = ClipIndex(clips.scheme, shifted(clips.table, generator), clips.excluded)
    time = np.tile(time_features(np.arange(FRAMES) / 2.0), (participants, 1))
    return alarmed(clips, Features(frames, readers, np.concatenate([drift, time], axis=1)), seed=number)


def drawn_clips(labels: np.ndarray) -> tuple[ClipIndex, pd.DataFrame]:
    """Clips and frames of labels (P, m), one recording of two clips per second each."""
    people, count = labels.shape
    names = np.repeat([f"p{number:02d}" for number in range(people)], count).astype(object)
    frame, starts_s = np.tile(np.arange(count), people), np.tile(np.arange(count) / 2.0, people)
    ids = [f"{name}@{start_s:.3f}" for name, start_s in zip(names, starts_s, strict=True)]
    same = {"recording_id": names, "participant_id": names, "frame": frame}
    target = np.asarray(labels, dtype=np.int64).ravel()
    table = pd.DataFrame(
        same
        | {"clip_id": ids, "source_id": ids, "group": names, "start_s": starts_s, "end_s": starts_s + 0.5}
        | {"target": target, "face_found": True, "segment": "", "segment_id": ""}
    )
    frames = pd.DataFrame(same | {"pts_s": starts_s, "target": target, "row": np.arange(len(table)), "segment": ""})
    excluded = pd.DataFrame(columns=["reason", "count", "recordings"])
    return ClipIndex(SCHEME, table, excluded), frames


def _select(features: Features, rows: np.ndarray) -> Features:
    readers = {name: values[rows] for name, values in features.readers.items()}
    return Features(features.frames[rows].reset_index(drop=True), readers, features.nuisances[rows])


def _rows(setting: str, alarms: np.ndarray) -> list[Row]:
    return [
        Row(setting, f"{name} alarms", float(alarms[:, column].mean()), len(alarms), ALARMS, 0.0, 0.1)
        for column, name in enumerate(("nuisances", "label-in-pixels"))
    ]

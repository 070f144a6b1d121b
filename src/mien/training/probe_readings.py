"""What a linear probe says of every frame, as the input of a network over time (`frame_input: probe`).

A network that is trained on hundreds of features of fifty people learns the people. A probe with a strong penalty on
the same features doesn't, and what it says of a frame is one number per output: of those a network over time can learn
how an expression runs, and how far this person goes. On its own training participants a probe is surer than on others,
so the network must never be trained on that: what is said of a training participant comes from a probe that didn't see
them (stacking, Wolpert 1992, Neural Networks 5:241-259).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.core.labels import LabelScheme
from mien.evaluation.probe import Probe, ProbeConfig, fit_probe
from mien.runtime.material import is_labelled, labels_of
from mien.training.sequence_batches import Rows, WindowSet

NUM_PARTS = 4
"""Parts of the training participants, of which each is read by a probe of the others."""

PROBE_CLIPS = 120
"""Most clips of a recording that a probe is fitted on, evenly spread: neighbouring frames are alike."""


@dataclass(frozen=True)
class ProbeReadings:
    """The sides of a fit with a probe's answers in place of features.

    Attributes:
        train: Windows of the training participants, each read by a probe that didn't see them.
        validation: Windows of the inner validation, read by `inner`.
        inner: The probe of all training participants.
        final: The probe of these and of the inner validation: for people that neither saw.
    """

    train: WindowSet
    validation: WindowSet
    inner: Probe
    final: Probe


def read_frames(
    train: WindowSet, validation: WindowSet, *, scheme: LabelScheme, config: ProbeConfig, seed: int
) -> ProbeReadings:
    """Fit the probes and read all frames.

    Args:
        train: The training participants, with features.
        validation: The inner validation, of the same recordings end to end.
        scheme: The target.
        config: Settings of the probes.
        seed: Decides the parts.

    Raises:
        UserError: A part without which the others show one class only.
    """
    assert train.joined is validation.joined, "both sides are cut from the same recordings"
    people = np.unique(train.clips["participant_id"].to_numpy(dtype=str))
    order = np.random.default_rng(seed).permutation(people)
    inner = _fit([train], scheme=scheme, config=config)
    readings = _read(inner, train)
    own = train.clips["participant_id"].to_numpy(dtype=str)
    for part in range(min(NUM_PARTS, len(people))):
        held = np.isin(own, order[part::NUM_PARTS])
        probe = _fit([_rows_of(train, np.flatnonzero(~held))], scheme=scheme, config=config)
        frames = _frames_of(_rows_of(train, np.flatnonzero(held)))
        readings[frames] = _read(probe, train)[frames]
    joined = dataclasses.replace(train.joined, features=readings)
    spec = dataclasses.replace(train.spec, feature_dim=readings.shape[1])
    read_train, read_validation = (dataclasses.replace(side, joined=joined, spec=spec) for side in (train, validation))
    final = _fit([train, validation], scheme=scheme, config=config)
    return ProbeReadings(read_train, read_validation, inner=inner, final=final)


def _fit(sides: list[WindowSet], *, scheme: LabelScheme, config: ProbeConfig) -> Probe:
    features, targets, participants = [], [], []
    for side in sides:
        assert side.joined.features is not None, "a recording with a picture"
        rows = side.thinned(PROBE_CLIPS)
        labels = labels_of(side.clips, scheme=scheme)
        given = side.joined.features[side.places]
        rows = rows[is_labelled(labels[rows]) & np.isfinite(given[rows, 0])]
        features.append(given[rows])
        targets.append(labels[rows])
        participants.append(side.clips["participant_id"].to_numpy(dtype=object)[rows])
    return fit_probe(
        np.concatenate(features),
        targets=np.concatenate(targets),
        participants=np.concatenate(participants),
        scheme=scheme,
        config=config,
    )


def _read(probe: Probe, windows: WindowSet) -> NDArray[np.float32]:
    """Return the probe's logits (F, C) of all frames; NaN where there is no face."""
    assert windows.joined.features is not None, "a recording with a picture"
    return probe.logits(windows.joined.features).astype(np.float32)


def _rows_of(windows: WindowSet, rows: Rows) -> WindowSet:
    return dataclasses.replace(windows, clips=windows.clips.iloc[rows], places=windows.places[rows])


def _frames_of(windows: WindowSet) -> Rows:
    """Return all frames of the recordings of the clips, clips or not."""
    first = windows.joined.first
    recordings = np.unique(np.searchsorted(first, windows.places, side="right") - 1)
    return np.concatenate([np.arange(first[number], first[number + 1]) for number in recordings])

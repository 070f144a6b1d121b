"""The same sound under several participants: the same file is found by its sha256, anything derived from it here.

Another format, level, rate or filter, noise and other silence around it leave most of the waveform below 1 kHz as it
was; two people who say the same sentence, or one person who says it twice, never make the same waveform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import resample_poly

from mien.data.dataset import Dataset
from mien.runtime.sound import RATE_HZ, at_rate

COMPARED_HZ = 2000
"""Voices have most of their power below 1 kHz, and codecs leave it alone."""

QUERY_S = 1.0
"""The stretch of a recording that is looked for in all others: the loudest."""

MIN_NCC = 0.9
"""Normalised cross-correlation of the stretch at its best place. Of 18 actors who say the same two sentences (RAVDESS)
the likest two recordings reach .84 (99 % of them .33 at most); copies of one at another level, rate or place,
low-passed or with noise 10 dB below, .96 and more. Not found: what was slowed down or sped up, or lost everything below
150 Hz."""

SIZE_STEP = 8192
"""Lengths of transforms are rounded up to this, so that recordings of about one length share those of the queries."""

GALLERY_S = 60.0
"""Of a longer recording so much from its start is looked through: copies start together."""

MAX_PAIR_SECONDS = 3e6
"""Seconds of recordings times recordings that are looked for in them: some minutes. Of more recordings less is looked
through, at least `MIN_GALLERY_S`."""

MIN_GALLERY_S = 3.0


@dataclass(frozen=True)
class Heard:
    """The start of a recording, as it is compared.

    Attributes:
        participant_id: Whose.
        recording_id: Which.
        samples: (S,) float32 at `COMPARED_HZ`.
    """

    participant_id: str
    recording_id: str
    samples: NDArray[np.float32]


def sound_matches(dataset: Dataset, owners: Sequence[tuple[str, str]]) -> tuple[pd.DataFrame, int]:
    """Look for the sound of each recording in those of other participants.

    Args:
        dataset: A prepared study.
        owners: (participant_id, recording_id) of the recordings; only those of sound alone are looked at, since people
            who can be seen are told apart by their faces.

    Returns:
        Columns participant_a, recording_a, participant_b, recording_b, ncc: each two recordings of different
        participants that reach `MIN_NCC`, the likest first. And how many participants were compared.
    """
    names = [(person, name) for person, name in owners if not dataset.has_pictures(name) and dataset.has_sound(name)]
    length_s = max(MIN_GALLERY_S, min(GALLERY_S, MAX_PAIR_SECONDS / max(1, len(names)) ** 2))
    heard = [Heard(person, name, _start(dataset, name, length_s=length_s)) for person, name in names]
    queries = Queries([loudest(one.samples) for one in heard])
    people = np.array([one.participant_id for one in heard], dtype=object)
    rows: list[dict[str, Any]] = []
    for one in heard:
        others = np.flatnonzero(people != one.participant_id)
        if len(others):
            scores = queries.best_match(one.samples)[others]
            rows += [_row(heard[i], one, ncc=float(scores[n])) for n, i in enumerate(others) if scores[n] >= MIN_NCC]
    columns = ["participant_a", "recording_a", "participant_b", "recording_b", "ncc"]
    table = pd.DataFrame(rows, columns=columns).sort_values("ncc", ascending=False, kind="stable")
    return table.drop_duplicates(["recording_a", "recording_b"]).reset_index(drop=True), len(set(people))


class Queries:
    """Stretches of sound that are looked for.

    Args:
        stretches: (Q,) each, of one length.
    """

    def __init__(self, stretches: Sequence[NDArray[np.float32]]) -> None:
        table = np.stack(stretches) if stretches else np.zeros((0, 1), np.float32)
        norms = np.sqrt((table.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        self._unit = (table / np.maximum(norms, 1e-9)).astype(np.float32)
        self._spectra: dict[int, NDArray[np.complex64]] = {}

    def best_match(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the NCC (N,) of all queries with samples (S,) at the best of all places; negated copies count, too.

        >>> sound = np.sin(np.arange(100.0) ** 1.5).astype(np.float32)
        >>> Queries([-0.3 * sound[20:60]]).best_match(sound).round(3)
        array([1.])
        """
        width = self._unit.shape[1]
        samples = np.pad(samples, (0, max(0, width - len(samples))))
        size = next_fast_len(-(-(len(samples) + width) // SIZE_STEP) * SIZE_STEP, real=True)
        if size not in self._spectra:
            self._spectra = {size: np.conj(rfft(self._unit, size, axis=1))}
        dots = irfft(self._spectra[size] * rfft(samples, size), size, axis=1)[:, : len(samples) - width + 1]
        total = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
        power = total[width:] - total[:-width]
        # Where there is (nearly) silence nothing can be the same.
        spread = np.sqrt(np.maximum(power, 1e-3 * power.max() + 1e-9))
        return np.asarray(np.abs(dots / spread).max(axis=1), np.float64)


def loudest(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the loudest `QUERY_S` of samples (S,) at `COMPARED_HZ`; a shorter sound is filled up with silence."""
    width = round(QUERY_S * COMPARED_HZ)
    samples = np.pad(samples, (0, max(0, width - len(samples))))
    total = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    first = int((total[width:] - total[:-width]).argmax())
    return samples[first : first + width]


def lowered(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return samples (S,) at `RATE_HZ` as they are compared: at `COMPARED_HZ`, without their mean."""
    values = np.asarray(samples, np.float32)
    return np.asarray(resample_poly(values - values.mean(), 1, RATE_HZ // COMPARED_HZ), np.float32)


def _start(dataset: Dataset, recording_id: str, *, length_s: float) -> NDArray[np.float32]:
    audio = dataset.audio(recording_id)
    assert audio is not None, "a recording that can be heard has sound"
    return lowered(at_rate(audio)[: round(length_s * RATE_HZ)])


def _row(a: Heard, b: Heard, *, ncc: float) -> dict[str, Any]:
    first, second = sorted((a, b), key=lambda one: (one.participant_id, one.recording_id))
    return {
        "participant_a": first.participant_id,
        "recording_a": first.recording_id,
        "participant_b": second.participant_id,
        "recording_b": second.recording_id,
        "ncc": ncc,
    }

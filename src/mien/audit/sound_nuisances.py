"""What a recording of sound says of the room, the devices and the cut, without the voice in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mien.data.dataset import Dataset
from mien.runtime.cache import cache_path, load_array, save_array, write_array
from mien.runtime.sound import at_rate, band_power

SOUND_FEATURES = ("length", "quiet level", "quiet tilt")
BACKGROUND_PERCENTILE = 5
"""The quietest steps of a recording are pauses: what is heard in them is the room and the microphone, not the voice."""

FLOOR_DB = -120.0
"""Of the power of all bands, in digital silence, which has no logarithm."""


def sound_nuisances(dataset: Dataset, recording_id: str) -> NDArray[np.float32]:
    """Return `SOUND_FEATURES` (N, 3), the same for all moments of a recording, kept in the dataset's cache.

    The length of the sound (log s), the level of its quietest steps (dB of full scale), and by how much the lower half
    of the bands exceeds the upper one there (dB): what a cut, a room and a microphone leave. 0 where there is no sound.
    """
    path = cache_path(dataset, recording_id, kind="nuisances-sound")
    if not path.is_file():
        values = _of_recording(dataset, recording_id)
        write_array(path, lambda temporary: save_array(temporary, values))
    num_moments = len(dataset.frames(recording_id))
    return np.tile(np.asarray(load_array(path), np.float32), (num_moments, 1))


def _of_recording(dataset: Dataset, recording_id: str) -> NDArray[np.float32]:
    audio = dataset.audio(recording_id)
    if audio is None or not dataset.has_sound(recording_id):
        return np.zeros(len(SOUND_FEATURES), np.float32)
    samples = at_rate(audio)
    power = band_power(samples) / (np.iinfo(np.int16).max + 1.0) ** 2
    levels_db = 10.0 * np.log10(np.maximum(power.sum(axis=0), 10.0 ** (FLOOR_DB / 10.0)))
    quiet = levels_db <= np.percentile(levels_db, BACKGROUND_PERCENTILE)
    half = len(power) // 2
    low, high = (10.0 * np.log10(part[:, quiet].mean() + 1e-12) for part in (power[:half], power[half:]))
    length_s = len(audio.samples) / audio.rate_hz
    return np.array([np.log(length_s), levels_db[quiet].mean(), low - high], np.float32)

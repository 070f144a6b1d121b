"""What there is to be looked at or listened to in each recording, and which samples a comparison can do with."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.data.dataset import Dataset

NO_PICTURE = "recording without a picture"
NO_SOUND = "recording without sound"
VIDEO, AUDIO = "video", "audio"


def check_there(dataset: Dataset, *, needs: Collection[str]) -> None:
    """Refuse a study of which no recording has what is needed.

    Args:
        dataset: A prepared study.
        needs: Of `video` and `audio`, what every clip has to have.

    Raises:
        UserError: No recording has a picture, or none has sound.
    """
    count = len(dataset.recordings)
    none = "The only recording has no" if count == 1 else f"None of the {count} recordings has"
    if VIDEO in needs and not (dataset.recordings["num_frames"] > 0).any():
        raise UserError(
            f"{none}{'' if count == 1 else ' a'} picture. The models that listen can be used: audio_wavenet, "
            "linear_probe@logmel, linear_probe@egemaps, or linear_probe@ with a speech network."
        )
    if AUDIO in needs and not any(dataset.has_sound(str(name)) for name in dataset.recordings["recording_id"]):
        raise UserError(
            f"{none}{'' if count == 1 else ' any'} sound. Use models that look at pictures, such as linear_probe@hog "
            "or temporal_vit, or prepare recordings that have sound."
        )


def usual_needs(dataset: Dataset) -> frozenset[str]:
    """Return what is looked at where nobody names models: the pictures, where there are any, else the sound."""
    return frozenset({VIDEO if (dataset.recordings["num_frames"] > 0).any() else AUDIO})


def lacking(dataset: Dataset, recording_ids: pd.Series[str], *, needs: Collection[str]) -> dict[str, NDArray[np.bool_]]:
    """Return which samples (N,) are of recordings that lack what is needed, by reason.

    Args:
        dataset: A prepared study.
        recording_ids: (N,) of the samples.
        needs: Of `video` and `audio`, what every clip has to have.
    """
    there = {VIDEO: (NO_PICTURE, dataset.has_pictures), AUDIO: (NO_SOUND, dataset.has_sound)}
    found = {}
    for need in sorted(needs, reverse=True):
        reason, has = there[need]
        without = [name for name in dataset.recordings["recording_id"] if not has(str(name))]
        found[reason] = recording_ids.isin(without).to_numpy(dtype=bool)
    return found

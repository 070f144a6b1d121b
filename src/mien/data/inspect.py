"""`mien inspect`: what a dataset holds and what can be asked of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from mien.core.storage import to_jsonable
from mien.data.dataset import Dataset
from mien.data.targets import summarise_targets


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what a dataset holds, as JSON-able values.

    Returns:
        `study`, `settings`, `content_hash`; the numbers of `participants`, `groups` and `recordings`, `minutes`,
        `frames`, `faces_found` (share, None where there are no frames), `minutes_per_participant` (median); `cameras`
        (recordings by camera), `with_sound`, `not_annotated` (recordings), `attributes`, `targets`,
        `unusable_targets` (name and reason of what can't be one), `signals` (units by channel), `segments`, and
        `failures` (rows of recording, stage, reason, advice).
    """
    recordings = dataset.recordings
    minutes = recordings["duration_s"] / 60
    num_frames = int(recordings["num_frames"].sum())
    per_person = minutes.groupby(recordings["participant_id"]).sum()
    targets = summarise_targets(dataset.tables())
    known = set(dataset.coded["recording_id"]) if len(dataset.coded) else set(dataset.annotations["recording_id"])
    value: dict[str, Any] = to_jsonable(
        {
            "path": dataset.path,
            "study": dataset.info["study"],
            "settings": dataset.info["config"],
            "content_hash": dataset.content_hash,
            "participants": recordings["participant_id"].nunique(),
            "groups": recordings["group"].nunique(),
            "recordings": len(recordings),
            "minutes": float(minutes.sum()),
            "minutes_per_participant": float(per_person.median()),
            "frames": num_frames,
            "faces_found": int(recordings["num_faces"].sum()) / num_frames if num_frames else None,
            "cameras": _counts(recordings["camera"]),
            "with_sound": int(recordings["audio_rate_hz"].notna().sum()),
            "not_annotated": int((~recordings["recording_id"].isin(list(known))).sum()),
            "attributes": list(dataset.attributes),
            "targets": [asdict(target) for target in targets],
            "unusable_targets": [{"name": name, "reason": reason} for name, reason in dataset.unusable_targets()],
            "signals": dataset.signal_units,
            "segments": _counts(dataset.segments["segment"]),
            "failures": dataset.failures.to_dict("records"),
        }
    )
    return value


def _counts(values: pd.Series[str]) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.value_counts(sort=False).sort_index().items()}

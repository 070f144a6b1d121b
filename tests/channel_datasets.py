"""The drawn people's dataset with more schemes: one that says who somebody is, a rare one, a number."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from mien.data.dataset import Dataset

ARM, RARE, LEVEL = "Arm", "Rare", "Level"


def add_schemes(dataset: Dataset, out: Path) -> Dataset:
    """Copy a dataset of drawn people and add `ARM` (all of a person or nothing: T3), `RARE` and `LEVEL`.

    `LEVEL` is a number every half second: what somebody smiles (5) or doesn't (0), a slow course, and a level of their
    own that no moment tells.
    """
    shutil.copytree(dataset.path, out, ignore=shutil.ignore_patterns("attempts.csv", "cache", "audit.*", "plan.json"))
    table = pd.read_parquet(out / "annotations.parquet")
    like = table[table["scheme"] == "Smile"].iloc[0]
    rows = []

    def add(recording: str, scheme: str, start_s: float, end_s: float, value: str | None = None) -> None:
        rows.append({**like, "recording_id": recording, "scheme": scheme, "onset_s": start_s, "offset_s": end_s})
        rows[-1]["value"] = value

    smiles = table[table["scheme"] == "Smile"]
    for number, recording in enumerate(sorted(dataset.recordings["recording_id"])):
        if number % 2:
            add(recording, ARM, 0.0, 6.0)
        if number == 0:
            add(recording, RARE, 1.0, 2.0)
        own = smiles[smiles["recording_id"] == recording]
        for start_s in np.arange(0.0, 6.0, 0.5):
            smiling = ((own["onset_s"] <= start_s) & (own["offset_s"] > start_s)).any()
            level = 3.0 * number + 5.0 * smiling + 0.3 * np.sin(start_s)
            add(recording, LEVEL, start_s, start_s + 0.5, f"{level:.3f}")
    more = pd.DataFrame(rows, columns=table.columns)
    pd.concat([table, more], ignore_index=True).to_parquet(out / "annotations.parquet")
    return Dataset.open(out)

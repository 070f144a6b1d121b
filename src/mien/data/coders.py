"""What each coder says of the samples that a model is scored on, so that coders can be compared with each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.labels import Unit
from mien.data.segments import NO_SEGMENT, segments_of
from mien.data.targets import TargetSpec, TargetTables, label_samples, usable
from mien.data.votes import DISAGREEMENT, votes_on

MAJORITY = "majority"
"""How a target is formed of several coders where the study names none."""


@dataclass(frozen=True)
class CoderRatings:
    """What C coders say of N samples (frames, or what else one label describes).

    Attributes:
        names: The coders.
        codes: (C, N) class codes; NaN where a coder isn't known to have looked, or says two things at once.
        table: recording_id, participant_id, group, segment_id (empty: none), seconds (of the recording); N rows.
        ties: Samples for which the target is missing because coders are split evenly.
        target_formed_by: `MAJORITY`, or `annotator NAME` where the study names one.
    """

    names: tuple[str, ...]
    codes: NDArray[np.float64]
    table: pd.DataFrame
    ties: int
    target_formed_by: str

    @property
    def num_ratings(self) -> NDArray[np.int64]:
        """How many coders say something of each sample (N,)."""
        return np.asarray(np.isfinite(self.codes).sum(axis=0), dtype=np.int64)

    def coded(self) -> list[tuple[str, float, int]]:
        """Return per coder the minutes that they coded, and of how many participants."""
        seconds = self.table["seconds"].to_numpy(dtype=np.float64)
        people = self.table["participant_id"]
        return [
            (name, float(seconds[own].sum() / 60), int(people[own].nunique()))
            for name, own in zip(self.names, np.isfinite(self.codes), strict=True)
        ]

    def coded_by(self, *coders: int) -> tuple[float, int]:
        """Return the minutes that all of these coders coded, and of how many participants; without any: two or more.

        Args:
            coders: Rows of `codes`.
        """
        told = np.isfinite(self.codes[list(coders)])
        shared = np.asarray(told.all(axis=0) if coders else self.num_ratings >= 2, dtype=bool)
        seconds = self.table["seconds"].to_numpy(dtype=np.float64)
        return float(seconds[shared].sum() / 60), int(self.table["participant_id"][shared].nunique())

    def of_coders(self, *coders: int) -> CoderRatings:
        """Return the ratings of some coders, named by their rows of `codes`."""
        return replace(self, names=tuple(self.names[row] for row in coders), codes=self.codes[list(coders)])

    def per_unit(self, unit: Unit) -> CoderRatings:
        """Return one sample per segment, recording or participant: what a coder says of most of its frames.

        A coder who says two things equally often of one unit says nothing of it. Frames outside every segment have no
        unit `segment` and are dropped.
        """
        if unit == "frame":
            return self
        keys = self.table[f"{unit}_id"].to_numpy(dtype=object)
        kept = keys != NO_SEGMENT
        names, of = np.unique(keys[kept].astype(str), return_inverse=True)
        codes = np.stack([_most_frequent(row[kept], of=of, num_units=len(names)) for row in self.codes])
        rows = self.table[kept].assign(unit=of)
        how = {name: "sum" if name == "seconds" else "first" for name in self.table}
        return replace(self, codes=codes, table=rows.groupby("unit", sort=True).agg(how).reset_index(drop=True))


def coder_ratings(tables: TargetTables, spec: TargetSpec) -> CoderRatings | None:
    """Return what each coder says of the samples that can be used, those on which they are split evenly among them.

    Those are left out of the target. Leaving them out here, too, would make coders agree.

    Args:
        tables: What targets are made of.
        spec: The target.

    Returns:
        None for an attribute, and where fewer than two coders are known to have coded a sample.
    """
    if spec.source == "attribute":
        return None
    votes = votes_on(tables, spec)
    if len(votes.names) < 2:
        return None
    samples = tables.samples
    segment_id = segments_of(samples, tables.segments)["segment_id"]
    # Whatever a label says, the picture has to be one that a model can be shown.
    kept = usable(tables, np.zeros(len(samples), dtype=np.int64), spec=spec)
    if spec.unit == "segment":
        kept &= (segment_id != NO_SEGMENT).to_numpy()
    codes = np.where(votes.compared, votes.codes, np.nan)[:, kept]
    rated = np.asarray(np.isfinite(codes).any(axis=1), dtype=bool)
    if rated.sum() < 2:
        return None
    of = tables.recordings.set_index("recording_id")
    table = pd.DataFrame(
        {
            "recording_id": samples["recording_id"],
            "participant_id": samples["recording_id"].map(of["participant_id"]),
            "group": samples["recording_id"].map(of["group"]),
            "segment_id": segment_id,
            "seconds": samples["end_s"] - samples["pts_s"],
        }
    )[kept].reset_index(drop=True)
    return CoderRatings(
        names=tuple(name for name, there in zip(votes.names, rated, strict=True) if there),
        codes=codes[rated],
        table=table,
        ties=int((label_samples(tables, spec)[kept] == DISAGREEMENT).sum()),
        target_formed_by=f"annotator {tables.annotator}" if tables.annotator else MAJORITY,
    )


def with_participants(ratings: CoderRatings, clips: pd.DataFrame) -> CoderRatings:
    """Return ratings whose participants and groups are those of a target's clips: the audit may have united some.

    Args:
        ratings: Of the same dataset.
        clips: recording_id, participant_id, group; participants without a clip keep their own.
    """
    now = clips.drop_duplicates("recording_id").set_index("recording_id")["participant_id"]
    were = ratings.table["participant_id"]
    names = pd.Series(ratings.table["recording_id"].map(now).to_numpy(), index=were.to_numpy()).dropna()
    people = were.map(names[~names.index.duplicated()]).fillna(were)
    groups = people.map(clips.drop_duplicates("participant_id").set_index("participant_id")["group"])
    table = ratings.table.assign(participant_id=people, group=groups.fillna(ratings.table["group"]))
    return replace(ratings, table=table)


def _most_frequent(codes: NDArray[np.float64], *, of: NDArray[np.intp], num_units: int) -> NDArray[np.float64]:
    """Return the most frequent code of each unit (num_units,), NaN where there is none or two are as frequent."""
    said = np.isfinite(codes)
    if not said.any():
        return np.full(num_units, np.nan)
    num_classes = int(codes[said].max()) + 1
    flat = of[said] * num_classes + codes[said].astype(np.int64)
    counts = np.bincount(flat, minlength=num_units * num_classes).reshape(num_units, num_classes)
    most = counts.max(axis=1)
    tied = (counts == most[:, None]).sum(axis=1) > 1
    return np.where((most == 0) | (tied), np.nan, counts.argmax(axis=1).astype(np.float64))

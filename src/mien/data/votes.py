"""Who coded what: where each coder is known to have looked, what each says of each sample, and their vote.

Where a coder isn't known to have looked, silence is missing, not negative. A coder is known to have looked

* where `coded.csv` names them; rows without an annotator are of every coder who annotated anything in the recording;
* in a study without `coded.csv`: at all of a recording in which they annotated anything.

The last two hold for coders who use the label anywhere in the study: who never does may not have been asked for it.
Intervals without an annotator, as rows of `coded.csv` without one, are of every coder who looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mien.data.targets import TargetSpec, TargetTables

Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

NOT_ANNOTATED, NOT_CODED, NO_INTERVAL, DISAGREEMENT, NO_ATTRIBUTE, OUTSIDE_SEGMENTS, OTHERS_ONLY = range(-1, -8, -1)
NOT_RATED = -8
REASONS = {
    NOT_ANNOTATED: "recording not annotated",
    NOT_CODED: "time that nobody coded",
    NO_INTERVAL: "outside every interval of the scheme",
    DISAGREEMENT: "coders disagree",
    NO_ATTRIBUTE: "attribute not given",
    OUTSIDE_SEGMENTS: "outside every segment",
    OTHERS_ONLY: "not coded by the annotator whom study.yaml names",
    NOT_RATED: "not rated by the tool",
}
"""Why a frame is missing, by its negative code. Of several coders who give none, the lowest code says most."""

UNNAMED = ""
"""The annotator of rows that name none."""


@dataclass(frozen=True)
class Votes:
    """What coders say of the samples of one target.

    Attributes:
        names: The C coders, as the study spells them, by name.
        codes: (C, N) the class code that each gives, or a negative code of `REASONS`.
        compared: (C, N) which of these show how the coder codes: not where nobody knows whether a silent coder
            looked, nor where an interval without an annotator speaks for all.
        unnamed: (N,) the same as a row of `codes`, of intervals without an annotator where no coder is known to have
            looked.
    """

    names: tuple[str, ...]
    codes: Codes
    compared: Mask
    unnamed: Codes

    def majority(self, num_classes: int) -> Codes:
        """Return what most coders say (N,), `DISAGREEMENT` where as many say something else; each has one vote."""
        voices = np.vstack([self.codes, self.unnamed])
        votes = np.stack([(voices == code).sum(axis=0) for code in range(num_classes)])
        most = votes.max(axis=0)
        tied = (votes == most).sum(axis=0) > 1
        missing = voices.min(axis=0)
        return np.where(most == 0, missing, np.where(tied, DISAGREEMENT, votes.argmax(axis=0))).astype(np.int64)

    def of_coder(self, name: str) -> Codes:
        """Return what one coder says (N,), `OTHERS_ONLY` where only others are known to have looked."""
        voices = np.vstack([self.codes, self.unnamed])
        own = next(
            (row for known, row in zip(self.names, self.codes, strict=True) if _normal(known) == _normal(name)),
            np.full(voices.shape[1], NOT_CODED),
        )
        others = (voices >= 0).any(axis=0) | (voices.min(axis=0) < NOT_CODED)
        left_out = (own == NOT_CODED) & others
        unannotated = (voices == NOT_ANNOTATED).all(axis=0)
        return np.where(unannotated, NOT_ANNOTATED, np.where(left_out, OTHERS_ONLY, own)).astype(np.int64)


def coder_names(annotations: pd.DataFrame, coded: pd.DataFrame) -> tuple[str, ...]:
    """Return the coders of a study as it first spells them, by name; capitals and white space make no other coder.

    Args:
        annotations: Column `annotator`, empty where a row names none.
        coded: The same.
    """
    spelled: dict[str, str] = {}
    for name in [*annotations["annotator"].fillna(""), *coded["annotator"].fillna("")]:
        spelled.setdefault(_normal(str(name)), str(name).strip())
    return tuple(spelled[key] for key in sorted(spelled) if key != UNNAMED)


def votes_on(tables: TargetTables, spec: TargetSpec) -> Votes:
    """Return what every coder says of every sample.

    Args:
        tables: What targets are made of.
        spec: The target, an annotation scheme.
    """
    annotations = tables.annotations.assign(annotator=tables.annotations["annotator"].map(_normal))
    coded = tables.coded.assign(annotator=tables.coded["annotator"].map(_normal))
    of_scheme = annotations["scheme"] == spec.name
    users = frozenset(annotations.loc[of_scheme, "annotator"])
    by_recording = {str(name): rows for name, rows in annotations.groupby("recording_id")}
    looked_at = None
    if len(coded):
        concerned = coded[coded["label"].isin(["", spec.name])]
        looked_at = {str(name): rows for name, rows in concerned.groupby("recording_id")}
    # Only those who could have a say; in a study of many labels that is a few of its coders.
    named = coder_names(annotations[of_scheme], coded[coded["label"].isin(["", spec.name])])
    keys = [_normal(name) for name in named]
    spelled = {_normal(name): name for name in coder_names(tables.annotations, tables.coded)}
    codes = np.full((len(keys) + 1, len(tables.samples)), NOT_ANNOTATED, dtype=np.int64)
    compared = np.zeros((len(keys), len(tables.samples)), dtype=bool)
    for recording_id, rows in tables.samples.groupby("recording_id").indices.items():
        one = _Recording(
            pts_s=tables.samples["pts_s"].to_numpy(dtype=np.float64)[rows],
            annotations=by_recording.get(str(recording_id), annotations.iloc[:0]),
            coded=None if looked_at is None else looked_at.get(str(recording_id), coded.iloc[:0]),
            spec=spec,
            users=users,
        )
        if one.coded is not None or len(one.annotations):
            codes[:, rows], compared[:, rows] = one.codes(keys)
    return Votes(tuple(spelled[key] for key in keys), codes[:-1], compared, codes[-1])


@dataclass(frozen=True)
class _Recording:
    """One recording, its annotators normalised.

    Attributes:
        pts_s: (N,) times of its samples.
        annotations: All of its annotations.
        coded: What was looked at, for this target; None where the study doesn't say.
        spec: The target.
        users: Who uses the label anywhere in the study.
    """

    pts_s: NDArray[np.float64]
    annotations: pd.DataFrame
    coded: pd.DataFrame | None
    spec: TargetSpec
    users: frozenset[str]

    def codes(self, keys: Sequence[str]) -> tuple[Codes, Mask]:
        """Return the codes (C + 1, N) of the coders and of the unnamed, and which of the coders' can be compared."""
        own = self.annotations[self.annotations["scheme"] == self.spec.name]
        unnamed = own[own["annotator"] == UNNAMED]
        anybody = self._everything() if self.coded is None else _coded_times(self.pts_s, self.coded)
        speaks_for_all = inside_any(self.pts_s, unnamed, start="onset_s", end="offset_s")
        codes = np.empty((len(keys) + 1, len(self.pts_s)), dtype=np.int64)
        compared = np.zeros((len(keys), len(self.pts_s)), dtype=bool)
        known = np.zeros(len(self.pts_s), dtype=bool)
        for row, key in enumerate(keys):
            looked, limited = self._looked(key)
            # Intervals of a coder of whom `coded.csv` says nothing count wherever anybody coded: they looked there.
            count = self._votes(own[own["annotator"] == key], within=looked if limited else anybody)
            count += self._votes(unnamed, within=looked)
            codes[row] = self._said(count, looked=looked)
            shows = looked if self.spec.presence else np.ones_like(looked)
            compared[row] = (codes[row] >= 0) & shows & ~speaks_for_all
            known |= looked
        nobody = anybody & ~known
        silent = nobody & (self._looked(UNNAMED)[0])
        codes[-1] = self._said(self._votes(unnamed, within=nobody), looked=silent)
        return codes, compared

    def _everything(self) -> Mask:
        return np.ones(len(self.pts_s), dtype=bool)

    def _looked(self, key: str) -> tuple[Mask, bool]:
        """Return where a coder is known to have looked (N,), and whether `coded.csv` limits them to it."""
        here = key in self.users and (self.annotations["annotator"] == key).any()
        if self.coded is None:
            return self._everything() if here else ~self._everything(), False
        own = self.coded["annotator"] == key
        if own.any() and key != UNNAMED:
            return _coded_times(self.pts_s, self.coded[own | (self.coded["annotator"] == UNNAMED)]), True
        # Somebody coded the rows that name nobody, whether or not they annotated anything.
        shared = self.coded[self.coded["annotator"] == UNNAMED] if here or key == UNNAMED else self.coded.iloc[:0]
        return _coded_times(self.pts_s, shared), False

    def _votes(self, intervals: pd.DataFrame, *, within: Mask) -> Codes:
        """Count the intervals of each class (K, N) at each time."""
        votes = np.zeros((len(self.spec.classes), len(self.pts_s)), dtype=np.int64)
        code_of = {name: code for code, name in enumerate(self.spec.classes)}
        rows = zip(intervals["onset_s"], intervals["offset_s"], intervals["value"], strict=True)
        for onset_s, offset_s, value in rows:
            inside = (self.pts_s >= onset_s) & (self.pts_s < offset_s) & within
            votes[1 if self.spec.presence else code_of[value], inside] += 1
        return votes

    def _said(self, votes: Codes, *, looked: Mask) -> Codes:
        """Return one coder's codes (N,): what most of their own intervals say."""
        silent = np.where(looked, 0 if self.spec.presence else NO_INTERVAL, NOT_CODED)
        most = votes.max(axis=0)
        tied = (votes == most).sum(axis=0) > 1
        given = np.where(tied, DISAGREEMENT, votes.argmax(axis=0))
        return np.where(most == 0, silent, given).astype(np.int64)


def _coded_times(pts_s: NDArray[np.float64], coded: pd.DataFrame) -> Mask:
    return inside_any(pts_s, coded, start="from_s", end="to_s")


def inside_any(pts_s: NDArray[np.float64], intervals: pd.DataFrame, *, start: str, end: str) -> Mask:
    """Return which times lie in any half-open interval [start, end)."""
    inside = np.zeros(len(pts_s), dtype=bool)
    for start_s, end_s in zip(intervals[start], intervals[end], strict=True):
        inside |= (pts_s >= start_s) & (pts_s < end_s)
    return inside


def same_annotator(one: str, other: str) -> bool:
    """Return whether two spellings name the same annotator: capitals and white space make no other coder."""
    return _normal(one) == _normal(other)


def _normal(annotator: Any) -> str:
    return "" if pd.isna(annotator) else str(annotator).strip().casefold()

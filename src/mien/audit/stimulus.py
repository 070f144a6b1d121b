"""Stimulus locking: what the other people's labels at this moment of this stimulus say of a person's label.

Where everybody smiles at the same joke, a model may learn the light of the joke's screen, or the seconds until it. The
peer baseline looks at no picture at all: it only knows when, and what others did then. Where it does well, a model's
skill could be knowledge of the stimuli, so a claim holds for these stimuli, unless a probe also predicts people in
stimuli that it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.audit.check import Check
from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.evaluation.grouped import (
    alarm_threshold,
    describe_interval,
    exceeds,
    grouped_interval,
    held_bound,
    is_known,
    out_of_fold_and_block,
    predictions_table,
    score_json,
)
from mien.evaluation.intervals import Interval
from mien.evaluation.probe import ProbeConfig
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import HogEncoder
from mien.runtime.material import Material, probe_features
from mien.runtime.sound_encoders import AnyEncoder, LogMelEncoder

PEER = "peer"
HELD_OUT = "held-out segment"

MOMENT_S = 0.5
"""Length of a moment. Expressions last half a second and more (Ekman & Friesen 1982), and people differ by as much in
when they start; where frames are sampled more rarely, a moment is a sampling interval."""

MAX_BLOCKS = 5
"""Segments are held out in at most so many parts: a fit per segment and fold takes long where a study has many."""


@dataclass(frozen=True)
class Moments:
    """When each clip is.

    Attributes:
        key: (N,) stimulus or segment; empty for a clip outside every segment of a study that has some.
        moment: (N,) number of the moment since the onset of the segment, or since the recording's first frame.
        has_segments: Whether the study has segments.
    """

    key: NDArray[np.object_]
    moment: NDArray[np.int64]
    has_segments: bool


def moments_of(dataset: Dataset, clips: ClipIndex) -> Moments:
    """Return when each clip is.

    Args:
        dataset: The dataset.
        clips: The clips of a target.
    """
    table, length_s = clips.table, max(MOMENT_S, 1.0 / dataset.fps)
    starts_s = table["start_s"].to_numpy(dtype=np.float64)
    if dataset.segments.empty:
        firsts_s = {name: float(pts_s.min()) for name, pts_s in dataset.samples.groupby("recording_id")["pts_s"]}
        since_s = starts_s - table["recording_id"].map(firsts_s).to_numpy(dtype=np.float64)
        return Moments(np.full(len(table), "recording", dtype=object), _moments(since_s, length_s), has_segments=False)
    segments = dataset.segments.sort_values(["recording_id", "onset_s", "offset_s"], kind="stable")
    # The ids of `segments_of`: r1#2 is the second segment to start in r1.
    number = segments.groupby("recording_id").cumcount() + 1
    segments.index = pd.Index(segments["recording_id"].astype(str) + "#" + number.astype(str))
    stimulus = segments["stimulus"].fillna("").astype(str)
    key = stimulus.where(stimulus != "", segments["segment"])
    inside = table["segment_id"].isin(segments.index).to_numpy()
    onsets_s = table["segment_id"].map(segments["onset_s"]).to_numpy(dtype=np.float64)
    since_s = np.where(inside, starts_s - np.nan_to_num(onsets_s), 0.0)
    names = table["segment_id"].map(key).fillna("").to_numpy(dtype=object)
    return Moments(names, _moments(since_s, length_s), has_segments=True)


def peer_predictions(material: Material, *, splits: Sequence[Split]) -> pd.DataFrame:
    """Predict each clip from the labels of the training participants at the same moment of the same stimulus.

    Each training participant has one vote: the class shares of their own clips in that moment, summed over
    repetitions. The shares are pulled towards the training prevalence by one more vote of it, and held against it:
    logit = logit(share here) - logit(share overall). So a rare label is predicted where it is less rare than usual,
    and the decision isn't "never". Where nobody has a label the logit is 0.

    Args:
        material: Dataset and clips.
        splits: The folds of the models.

    Returns:
        A predictions table called `PEER`.
    """
    clips, moments = material.clips, moments_of(material.dataset, material.clips)
    table, scheme = clips.table, clips.scheme
    votes, people, cell = _votes(clips, moments)
    overall = _shares_of_people(clips, people)
    parts = []
    for split in splits:
        train = np.isin(people, (*split.train, *split.validation))
        test = np.flatnonzero(table["participant_id"].isin(split.test))
        prior = overall[train].mean(axis=0)
        shares = (votes[train].sum(axis=0) + prior) / ((votes[train].sum(axis=(0, 2)) + 1.0)[:, None])
        # A cell outside every segment is no moment of a stimulus: nothing is known of it.
        here = np.where((cell[test] >= 0)[:, None], shares[cell[test]], prior)
        logs = np.log(np.maximum(here, 1e-9)) - np.log(np.maximum(prior, 1e-9))
        logits = (logs[:, 1] - logs[:, 0])[:, None] if scheme.kind == "binary" else logs
        parts.append(predictions_table(logits, clips=clips, rows=table.index[test], model=PEER, fold=split.fold))
    return pd.concat(parts, ignore_index=True)


def held_out_segment_scores(
    material: Material,
    *,
    splits: Sequence[Split],
    baselines: Sequence[PersonalBaseline],
    encoder: AnyEncoder | None = None,
) -> dict[str, Interval]:
    """Score the probe on people AND stimuli that it never saw.

    Args:
        material: Dataset and clips.
        splits: The folds of the models.
        baselines: The personal baselines of the models.
        encoder: Frozen features; where none is given HOG, of sound alone log-mel.

    Returns:
        Balanced accuracy by personal baseline (as text); empty for a study without two segments, or where the label
        never varies outside a segment.
    """
    moments = moments_of(material.dataset, material.clips)
    keys = sorted({str(key) for key in moments.key if key}) if moments.has_segments else []
    if len(keys) < 2:
        return {}
    block_of = {key: number % MAX_BLOCKS for number, key in enumerate(keys)}
    encoder = encoder or (HogEncoder() if material.sense == "video" else LogMelEncoder())
    people = sorted({name for split in splits for name in (*split.train, *split.validation, *split.test)})
    frames, features = probe_features(material, people, encoder=encoder, baseline=PersonalBaseline())
    block_of_clip = np.array([block_of.get(str(key), -1) for key in moments.key] + [-1])
    rows = frames["row"].to_numpy()
    position = pd.Series(np.arange(len(material.clips.table)), index=material.clips.table.index)
    where = np.where(rows >= 0, position.reindex(rows).fillna(-1).to_numpy(np.int64), -1)
    blocks = block_of_clip[where]
    scores = {}
    for baseline in baselines:
        predictions = out_of_fold_and_block(
            features,
            frames,
            blocks=blocks,
            clips=material.clips,
            splits=splits,
            baseline=baseline,
            C=ProbeConfig().C,
            model=HELD_OUT,
        )
        if predictions is not None:
            scores[str(baseline)] = grouped_interval(predictions, material.clips.scheme, folds=len(splits))
    return scores


def check_stimulus(
    peer: pd.DataFrame,
    *,
    dataset: Dataset,
    clips: ClipIndex,
    splits: Sequence[Split],
    held_out: dict[str, Interval],
) -> tuple[Check, bool]:
    """Say whether a claim has to be limited to the stimuli of the study.

    Args:
        peer: What `peer_predictions` returned.
        dataset: The dataset.
        clips: The clips of the target.
        splits: The folds.
        held_out: What `held_out_segment_scores` returned.

    Returns:
        The check, and whether the claim is limited to "for these stimuli". It isn't where the label isn't locked to
        the stimuli, or where the probe predicts, under each personal baseline, people in stimuli that it never saw.
    """
    threshold = alarm_threshold(clips, splits=splits)
    interval = grouped_interval(peer, clips.scheme, folds=len(splits))
    scores = [score_json(PEER, interval, baseline=PersonalBaseline())]
    scores += [score_json(HELD_OUT, value, baseline=PersonalBaseline.parse(name)) for name, value in held_out.items()]
    evidence: dict[str, Any] = {"scores": scores, "segments": not dataset.segments.empty}
    if clips.scheme.unit in ("recording", "participant"):
        detail = f"One label describes a {clips.scheme.unit}: it isn't tied to a moment of a stimulus."
        return Check("stimulus-locking", "ok", None, threshold, detail, evidence=evidence), False
    when = "this moment of this stimulus" if evidence["segments"] else "this time since the start of the recording"
    if not is_known(interval):
        detail = "Too few people show both classes to score anything with people apart."
        return Check("stimulus-locking", "not checked", None, threshold, detail, "Add participants.", evidence), False
    locked = exceeds(interval, threshold, clips=clips)
    holds = bool(held_out) and all(exceeds(value, threshold, clips=clips) for value in held_out.values())
    detail = (
        f"What the other participants' labels were at {when} reaches {describe_interval(interval)} "
        f"(balanced accuracy; lower bounds are held against {threshold:.2f})."
    )
    if not evidence["segments"]:
        detail += " The study has no segments, so the time since the start of the recording was used."
    for name, value in held_out.items():
        detail += f" A probe reaches {describe_interval(value)} on people and stimuli that it"
        detail += f" never saw (baseline {name})."
    advice = ""
    if locked and not holds:
        advice = (
            "A claim holds for these stimuli only. To show more, list the segments in segments.csv, show stimuli in "
            "another order to each participant, or test on other stimuli."
        )
    elif locked:
        advice = (
            "Read the score on held-out segments beside the usual one: it knows neither the people nor the stimuli."
        )
    bound = held_bound(interval, threshold, clips=clips)
    return (
        Check("stimulus-locking", "warn" if locked else "ok", bound, threshold, detail, advice, evidence),
        locked and not holds,
    )


def _moments(since_s: NDArray[np.floating], length_s: float) -> NDArray[np.int64]:
    # Rounded: a frame a few ms before a full moment belongs to it.
    return np.maximum(np.round(since_s / length_s), 0).astype(np.int64)


def _votes(clips: ClipIndex, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.object_], NDArray[np.int64]]:
    """Return votes (P, cells, K), people (P,) and the clips' cells (N,), -1 for none.

    Votes sum to 1 per person and cell, to 0 where the person has no clip in it.
    """
    table = clips.table
    known = pd.Series(moments.key != "", index=table.index)
    names = pd.Series(moments.key, index=table.index).astype(str) + "\n" + moments.moment.astype(str)
    cell = np.full(len(table), -1, dtype=np.int64)
    cell[known.to_numpy()], cells = pd.factorize(names[known])
    person, people = pd.factorize(table["participant_id"])
    votes = np.zeros((len(people), max(1, len(cells)), len(clips.scheme.classes)))
    rows = cell >= 0
    np.add.at(votes, (person[rows], cell[rows], table["target"].to_numpy(np.int64)[rows]), 1.0)
    totals = votes.sum(axis=2, keepdims=True)
    return votes / np.maximum(totals, 1.0), np.asarray(people, dtype=object), cell


def _shares_of_people(clips: ClipIndex, people: NDArray[np.object_]) -> NDArray[np.float64]:
    """Class shares (P, K) of each participant's clips."""
    shares = pd.crosstab(clips.table["participant_id"], clips.table["target"], normalize="index")
    return shares.reindex(index=people, columns=range(len(clips.scheme.classes)), fill_value=0.0).to_numpy()

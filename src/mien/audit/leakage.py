"""The leakage gap: what the same frozen features and the same probe would show with frames of one person on both sides.

Neighbouring frames are nearly the same picture, and a face says who it is: with people mixed across folds a probe reads
the answer off the person. The gap shows how much; the number with people mixed is never a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from mien.audit.check import Check
from mien.core.types import Split
from mien.evaluation.grouped import grouped_interval, mixed_frames_accuracy, out_of_fold, single_class_folds
from mien.evaluation.intervals import Interval
from mien.evaluation.probe import ProbeConfig
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import HogEncoder
from mien.runtime.material import Material, probe_features
from mien.runtime.sound_encoders import AnyEncoder, LogMelEncoder, listening


@dataclass(frozen=True)
class LeakageGap:
    """The same probe under both splits.

    Attributes:
        features: Name of the encoder.
        baseline: The personal baseline.
        mixed: Balanced accuracy with frames of one person on both sides: no score.
        apart: Balanced accuracy with people apart, over participants.
        predictions: The predictions with people apart.
    """

    features: str
    baseline: PersonalBaseline
    mixed: float
    apart: Interval
    predictions: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """Return the gap as the evidence of the check holds it."""
        return {
            "features": self.features,
            "baseline": str(self.baseline),
            "frame_split": self.mixed,
            "participant_split": self.apart.mean,
            "interval": asdict(self.apart),
        }


def leakage_gaps(
    material: Material,
    *,
    splits: Sequence[Split],
    baselines: Sequence[PersonalBaseline],
    encoders: Sequence[AnyEncoder] = (),
    seed: int,
) -> list[LeakageGap]:
    """Fit the probe under both splits, on HOG (of sound alone: on log-mel) and on the features of each encoder.

    Args:
        material: Dataset and clips.
        splits: The folds of the models; the frame-level split has as many.
        baselines: The personal baselines of the models; `none` is always measured, and first.
        encoders: Frozen encoders of the models.
        seed: Seed of the frame-level split.

    Returns:
        The built-in features first, then the encoders as given. Empty where a fold's training participants show one
        class only, or the rarest class has fewer clips than there are folds.
    """
    chosen: dict[str, AnyEncoder] = {"hog": HogEncoder()}
    if material.sense == "audio":
        chosen, encoders = {"logmel": LogMelEncoder()}, listening(encoders)
    chosen |= {encoder.spec.name: encoder for encoder in encoders}
    wanted = list(dict.fromkeys([PersonalBaseline(), *baselines]))
    people = sorted({name for split in splits for name in (*split.train, *split.validation, *split.test)})
    counts = material.clips.table["target"].value_counts()
    if int(counts.min()) < len(splits) or single_class_folds(material.frames_of(people), splits=splits):
        return []
    gaps = []
    for encoder in chosen.values():
        frames, features = probe_features(material, people, encoder=encoder, baseline=PersonalBaseline())
        for baseline in wanted:
            given: dict[str, Any] = {"clips": material.clips, "baseline": baseline, "C": ProbeConfig().C}
            apart = out_of_fold(features, frames, splits=splits, model="apart", **given)
            interval = grouped_interval(apart, material.clips.scheme, folds=len(splits))
            mixed = mixed_frames_accuracy(features, frames, folds=len(splits), seed=seed, **given)
            gaps.append(LeakageGap(encoder.spec.name, baseline, mixed, interval, apart))
    return gaps


def check_leakage_gap(gaps: Sequence[LeakageGap]) -> Check:
    """Show the gap. It never warns: people differ in every study, and the folds keep them apart in every score."""
    known = [gap for gap in gaps if np.isfinite(gap.mixed) and np.isfinite(gap.apart.mean)]
    evidence = {"gaps": [gap.to_json() for gap in gaps]}
    if not known:
        detail = "Too few clips or people show both classes for a probe under both splits."
        return Check("leakage-gap", "not checked", None, None, detail, "Add participants.", evidence)
    widest = max(known, key=lambda gap: gap.mixed - gap.apart.mean)
    shown = "; ".join(
        f"{gap.features} {gap.mixed:.3f} instead of {gap.apart.mean:.3f} (baseline {gap.baseline})" for gap in known
    )
    return Check(
        "leakage-gap",
        "ok",
        widest.mixed - widest.apart.mean,
        None,
        f"With frames of one person in training and test the same probe would show {shown}. The first number of each "
        "is no score: it holds knowledge of the person and of neighbouring frames.",
        evidence=evidence,
    )

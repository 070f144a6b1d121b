"""Which model is worth training: by the number of participants before there are scores, by the corrected test after.

Before: what so few people can't show isn't worth fitting. A bigger model that is better by less than the detectable
difference would look the same as the probe, and has more ways to learn the people instead of the expression. After: a
bigger model is recommended only where it beats the best linear probe by the corrected test; a participant-balanced
probe on frozen features is what it has to beat (EVALUATION.md, section 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mien.core.numbers import p_text, short_number
from mien.evaluation.power import ALPHA, detectable_difference
from mien.evaluation.verdict import MIN_SUPPORTED

TYPICAL_SD = 0.10
"""Standard deviation between participants of the difference of two models, where none was observed yet."""

PROBE_BELOW = MIN_SUPPORTED
"""Fewer participants find differences of .10 and more only: a probe with the personal baseline is all they can tell."""

HEAD_BELOW = 50
"""From here on a difference of .06 is found, what opening the last blocks may bring; below, a head on frozen features
has a hundredth of the weights and is what can be told from a probe."""

LAST_BELOW = 100
"""From here on a difference of .04 is found; below, opening more than the last blocks can't be told from them."""


@dataclass(frozen=True)
class Recommendation:
    """Which model to train.

    Attributes:
        text: The advice, one sentence.
        model: Name of the model as `--models` takes it; None where it is a kind of model.
        label: Short name.
        why: The main reason, a clause that follows the name.
        reasons: What else speaks for it, a sentence each.
    """

    text: str
    model: str | None
    label: str
    why: str
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `comparison.json` holds as `recommended`."""
        return {
            "name": self.model,
            "label": self.label,
            "why": self.why,
            "text": self.text,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class Candidate:
    """A model that was compared.

    Attributes:
        name: Its name.
        label: Its short name.
        is_probe: Whether it is a linear probe on frozen features.
        mean: Its mean score; minus infinity where it is undefined.
    """

    name: str
    label: str
    is_probe: bool
    mean: float


def recommend_before(num_participants: int, *, folds: int) -> Recommendation:
    """Say what is worth training on so many independent participants, before anything is fitted.

    Args:
        num_participants: Independent participants (or groups).
        folds: K of the cross-validation that will tell.

    >>> recommend_before(12, folds=5).label
    'linear_probe'
    """
    probe = "Train linear_probe with and without a personal baseline"
    condition = "it is worth having only if it beats the probe by the corrected test"
    if num_participants < PROBE_BELOW:
        label, text = "linear_probe", f"{probe}; a bigger model couldn't be shown to be better."
    elif num_participants < HEAD_BELOW:
        label = "a head on frozen features"
        text = f"{probe}, and a pretrained network with unfreeze: head; {condition}."
    elif num_participants < LAST_BELOW:
        label = "the last blocks"
        text = f"{probe}, and a pretrained network with unfreeze: last:2; {condition}."
    else:
        label = "the whole network"
        text = f"{probe}, and a pretrained network with unfreeze: all; {condition}."
    reason = "One participant can't show any difference between two models."
    if num_participants > 1:
        found = detectable_difference(num_participants, sd=TYPICAL_SD, folds=folds)
        reason = (
            f"With {num_participants} independent participants and {folds} folds two models have to differ by "
            f"{short_number(found)} in balanced accuracy for that to be found with 80 % power (where differences vary "
            f"by {short_number(TYPICAL_SD)} between people)."
        )
    return Recommendation(text, None, label, f"by the number of participants ({num_participants})", (reason,))


def best_probe(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the linear probe with the highest mean score, None without one."""
    probes = [candidate for candidate in candidates if candidate.is_probe]
    return max(probes, key=lambda candidate: candidate.mean) if probes else None


def recommend_after(candidates: Sequence[Candidate], *, to_probe: Mapping[str, Mapping[str, Any]]) -> Recommendation:
    """Recommend a model on its scores: a bigger one only where it beats the best probe by the corrected test.

    Args:
        candidates: The models that were compared.
        to_probe: Per model that is no probe its difference to the best probe: `mean`, `p_holm` (corrected over all of
            these; None where no p can be shown), `p_note`, `detectable`. Without a probe it isn't looked at.
    """
    ordered = sorted(candidates, key=lambda candidate: -candidate.mean)
    best, probe = ordered[0], best_probe(candidates)
    if probe is None:
        why = "highest mean score (no linear probe was compared)"
        reason = "Whether a bigger model is needed at all isn't known: compare linear_probe, too."
        return Recommendation(f"Train {best.label} if any.", best.name, best.label, why, (reason,))
    for candidate in ordered:
        row = to_probe.get(candidate.name)
        if row is not None and row["p_holm"] is not None and row["p_holm"] < ALPHA and row["mean"] > 0:
            gain = f"beats the best linear probe, {probe.label}, by {short_number(row['mean'])}"
            why = f"{gain} (p {p_text(row['p_holm'])})"
            return Recommendation(f"Train {candidate.label}: it {why}.", candidate.name, candidate.label, why)
    if best.is_probe:
        why = f"highest mean score (the best of {len(candidates)})"
    else:
        why = f"no network was shown to beat this linear probe ({best.label} is nominally better)"
    reasons = tuple(_why_not(candidate, to_probe[candidate.name]) for candidate in ordered if not candidate.is_probe)
    text = f"Stay with the linear probe {probe.label}." if reasons else f"Train {probe.label}."
    return Recommendation(text, probe.name, probe.label, why, reasons)


def _why_not(candidate: Candidate, row: Mapping[str, Any]) -> str:
    if row["p_holm"] is None:
        return f"{candidate.label}: {row['p_note']}"
    found = f"; a true difference of {short_number(row['detectable'])} would have been found with 80 % power"
    return (
        f"{candidate.label} differs from it by {short_number(row['mean'])} (p {p_text(row['p_holm'])} after Holm's "
        f"correction{found})."
    )

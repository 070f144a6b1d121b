"""What a comparison permits to claim: `supported`, `exploratory` or `refused`, and the sentence itself.

No word says more than "no leak was found by these checks". A claim needs more than a high score: a test against chance
that holds after correction, an interval that excludes chance, and a score above the best of what sees no face
(nuisances, the picture with its face hidden, other people's labels at the same moment) by the corrected interval. The
last one is for labels that follow a shared stimulus: given to other participants they mean nothing, yet faces that move
at the same moments predict them better than chance (simulation `claims` in docs/evaluation.md). So a comparison whose
verdict isn't `refused` may still permit no claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mien.core.labels import LabelScheme
from mien.core.numbers import p_text, short_number, with_interval

VerdictName = Literal["supported", "exploratory", "refused"]

ALPHA = 0.05
"""Probability of a false claim that is accepted, after Holm's correction."""

MIN_SUPPORTED = 20
"""Fewer independent participants are exploratory: with 20 a difference of .10 (sd .10) is found with 80 % power."""

MAX_HALF_WIDTH = 0.05
"""A wider interval doesn't tell a good model from a mediocre one."""

NOT_PERMITTED = (
    "a claim about felt emotion",
    "about people unlike those of this study, other stimuli or recording conditions",
    "about groups under 10 people",
    "a decision about a person in hiring, employment or education",
)


@dataclass(frozen=True)
class Evidence:
    """What a verdict is decided on.

    Attributes:
        scheme: The target.
        participants: Number of independent participants (or groups).
        label: Name of the recommended model.
        score: Its balanced accuracy: mean, low, high.
        chance: Its test against chance: p, p_holm, p_note, null_mean.
        references: Mean balanced accuracy of what sees no face, by name, such as nuisances.
        above_references: Difference of the model to the strongest of `references`: mean, low, high; None without any.
        selected: Balanced accuracy of the selected pipeline; None where there was nothing to choose.
        num_models: Number of models that were compared.
        overrides: Checks that the user overrode.
        stimulus_locked: Whether labels follow a shared stimulus and no score on a held-out segment holds.
        synthetic: Whether a program made people or labels.
    """

    scheme: LabelScheme
    participants: int
    label: str
    score: Mapping[str, Any]
    chance: Mapping[str, Any] | None
    references: Mapping[str, float] = field(default_factory=dict)
    above_references: Mapping[str, Any] | None = None
    selected: Mapping[str, Any] | None = None
    num_models: int = 1
    overrides: Sequence[str] = ()
    stimulus_locked: bool = False
    synthetic: bool = False


@dataclass(frozen=True)
class Verdict:
    """What is permitted.

    Attributes:
        verdict: The verdict.
        permitted_claim: The sentence; None where nothing may be claimed.
        reasons: Why it isn't `supported`, or why nothing may be claimed.
        not_permitted: What may not be claimed in any case.
    """

    verdict: VerdictName
    permitted_claim: str | None
    reasons: tuple[str, ...]
    not_permitted: tuple[str, ...] = NOT_PERMITTED


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict of a comparison that the audit let through."""
    reasons = _shortcomings(evidence)
    nothing = _why_nothing(evidence)
    if nothing:
        return Verdict("exploratory", None, (nothing, *reasons))
    claim = _claim(evidence)
    if reasons:
        return Verdict("exploratory", claim, reasons)
    return Verdict("supported", claim, ())


def refuse(reasons: Sequence[str]) -> Verdict:
    """Return the verdict of a comparison that the audit stopped, or that had nothing to test."""
    return Verdict("refused", None, tuple(reasons))


def agreement(scheme: LabelScheme) -> str:
    """Say what a score of this target is agreement with.

    >>> agreement(LabelScheme("Smile", "binary", ("not Smile", "Smile"), "tool:AFFDEX"))
    'agrees with AFFDEX on Smile'
    """
    source, target = scheme.label_source, scheme.target
    if source.startswith("tool:"):
        return f"agrees with {source.removeprefix('tool:')} on {target}"
    known = {
        "human": f"agrees with the human coders on {target}",
        "self-report": f"agrees with the participants' own report of {target}",
        "stimulus": f"agrees with what the stimulus was meant to show ({target})",
        "attribute": f"agrees with the study's table on {target}",
        "synthetic": f"agrees with the program that made the labels on {target}",
    }
    return known.get(source, f"agrees with {source} on {target}")


def _shortcomings(evidence: Evidence) -> tuple[str, ...]:
    reasons = []
    if evidence.participants < MIN_SUPPORTED:
        reasons.append(f"{evidence.participants} independent participants; {MIN_SUPPORTED} are needed.")
    low, high = evidence.score.get("low"), evidence.score.get("high")
    if low is None or high is None or not high - low <= 2 * MAX_HALF_WIDTH:
        width = "unknown" if low is None or high is None else f"±{short_number((high - low) / 2)}"
        reasons.append(f"The interval is wide ({width}; ±{short_number(MAX_HALF_WIDTH)} is needed).")
    if evidence.overrides:
        reasons.append(f"Overridden by the user: {', '.join(evidence.overrides)}.")
    return tuple(reasons)


def _why_nothing(evidence: Evidence) -> str:
    """Why nothing may be claimed; empty where something may."""
    chance = evidence.chance
    if chance is None or chance.get("p_holm") is None:
        note = (chance or {}).get("p_note") or "no test against chance was possible."
        return f"Nothing can be claimed: {note}"
    if chance["p_holm"] >= ALPHA:
        return (
            f"No model was shown to be above chance: {evidence.label} reaches {with_interval(evidence.score)}, chance "
            f"{short_number(chance.get('null_mean'))}, p {p_text(chance['p_holm'])} after Holm's correction."
        )
    low = evidence.score.get("low")
    if low is not None and low <= chance["null_mean"]:
        # Shifting labels is a little too eager where models are retrained (docs/evaluation.md); the interval isn't.
        return (
            f"The interval of {evidence.label}, {with_interval(evidence.score)}, holds chance "
            f"({short_number(chance['null_mean'])})."
        )
    above = evidence.above_references
    if above is not None and not (above.get("low") or 0.0) > 0:
        strongest = max(evidence.references, key=lambda name: evidence.references[name])
        return (
            f"{evidence.label} wasn't shown to see more than what sees no face: it is {with_interval(above)} above "
            f"{strongest} ({short_number(evidence.references[strongest])})."
        )
    return ""


def _claim(evidence: Evidence) -> str:
    assert evidence.chance is not None
    scope = "In people and for the stimuli of this study"
    if evidence.stimulus_locked:
        scope += " (these stimuli only: others' labels at the same moment tell much of it)"
    beside = [f"chance {short_number(evidence.chance.get('null_mean'))}"]
    beside += [f"{name} {short_number(value)}" for name, value in evidence.references.items()]
    text = (
        f"{scope}, {evidence.label} {agreement(evidence.scheme)}: balanced accuracy "
        f"{with_interval(evidence.score)}; {', '.join(beside)}."
    )
    if evidence.selected is not None:
        really = with_interval(evidence.selected)
        text += f" Choosing the best of {evidence.num_models} models really gives {really}."
    if evidence.synthetic:
        text += " The study is synthetic: this says that the software works, nothing about people."
    return text

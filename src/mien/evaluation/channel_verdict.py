"""What a comparison of several channels permits to claim: the channels that hold by themselves, and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mien.core.numbers import short_number, with_interval
from mien.evaluation.multilabel import MIN_POSITIVE_PARTICIPANTS
from mien.evaluation.verdict import MAX_HALF_WIDTH, Evidence, Verdict, agreement, decide, refuse

MAX_TOLD = 4
"""Channels whose reason the first line tells one by one; each channel's own entry has it in any case."""

_WIDE_BEGINS = "The interval is wide"
WIDE = f"The interval is wider than ±{short_number(MAX_HALF_WIDTH)}."


@dataclass(frozen=True)
class ChannelVerdict:
    """One channel of a comparison.

    Attributes:
        name: The channel.
        verdict: What may be claimed of it alone.
        evidence: What that was decided on; None where the audit refused the channel.
        too_rare: Whether so few people show it that a score would be about them.
        beside: What a claim says of its score beside balanced accuracy, such as a CCC; may be empty.
    """

    name: str
    verdict: Verdict
    evidence: Evidence | None = None
    too_rare: bool = False
    beside: str = ""

    @property
    def holds(self) -> bool:
        """Whether something may be claimed of it."""
        return self.evidence is not None and self.verdict.permitted_claim is not None


def decide_channel(
    name: str, evidence: Evidence, *, participants_with_positive: int, beside: str = ""
) -> ChannelVerdict:
    """Return the verdict of one channel: that of a binary target, unless it is too rare.

    Args:
        name: The channel.
        evidence: As for a binary target; its p corrected for all channels and models.
        participants_with_positive: How many people show it.
        beside: What a claim says of its score beside balanced accuracy.
    """
    if participants_with_positive >= MIN_POSITIVE_PARTICIPANTS:
        return ChannelVerdict(name, decide(evidence), evidence, beside=beside)
    people = (
        "1 participant shows" if participants_with_positive == 1 else f"{participants_with_positive} participants show"
    )
    reason = f"Too rare: {people} it; {MIN_POSITIVE_PARTICIPANTS} are needed for a score that isn't about these alone."
    return ChannelVerdict(name, Verdict("exploratory", None, (reason,)), evidence, too_rare=True)


def decide_channels(
    channels: Sequence[ChannelVerdict], *, label: str, selected: Mapping[str, float | None] | None, num_models: int
) -> Verdict:
    """Return the verdict of the whole: supported only where every channel is that isn't refused or too rare.

    Args:
        channels: All channels that were asked for.
        label: Name of the recommended model.
        selected: Balanced accuracy of the selected pipeline, mean over channels; None where nothing was chosen.
        num_models: Number of models that were compared.
    """
    judged = [channel for channel in channels if channel.evidence is not None]
    if not judged:
        return refuse([f"{each.name}: {reason}" for each in channels for reason in each.verdict.reasons])
    counted = [channel for channel in judged if not channel.too_rare]
    holding = [channel for channel in counted if channel.holds]
    reasons = _reasons(channels)
    if not holding:
        nothing = "No channel was shown to hold."
        return Verdict("exploratory", None, (nothing, *reasons))
    claim = _claim(holding, label=label, asked=len(channels))
    if selected is not None:
        claim += f" Choosing the best of {num_models} models really gives {with_interval(selected)} on the whole."
    if holding[0].evidence is not None and holding[0].evidence.synthetic:
        claim += " The study is synthetic: this says that the software works, nothing about people."
    if all(channel.verdict.verdict == "supported" for channel in counted):
        return Verdict("supported", claim, ())
    return Verdict("exploratory", claim, reasons)


def _claim(holding: Sequence[ChannelVerdict], *, label: str, asked: int) -> str:
    parts = []
    for channel in holding:
        evidence = channel.evidence
        assert evidence is not None, "what holds has evidence"
        beside = [channel.beside] if channel.beside else []
        if evidence.references:
            strongest = max(evidence.references, key=lambda name: evidence.references[name])
            beside.append(f"{strongest} {short_number(evidence.references[strongest])}")
        if evidence.stimulus_locked:
            beside.append("for these stimuli only")
        said = "; ".join([f"balanced accuracy {with_interval(evidence.score)}", *beside])
        parts.append(f"{agreement(evidence.scheme)} ({said})")
    which = "" if len(holding) == asked else f" Of {asked} channels, only these may be claimed."
    return f"In people and for the stimuli of this study, {label} {_listed(parts)}.{which}"


def _listed(parts: Sequence[str]) -> str:
    """Join clauses that begin alike, the shared words once.

    >>> _listed(["agrees with AFFDEX on Smile (.9)", "agrees with AFFDEX on Joy (.8)"])
    'agrees with AFFDEX on Smile (.9), on Joy (.8)'
    """
    written: list[str] = []
    before = ""
    for part in parts:
        start, joint, rest = part.partition(" on ")
        written.append(f"on {rest}" if joint and start == before else part)
        before = start
    return ", ".join(written)


def _reasons(channels: Sequence[ChannelVerdict]) -> tuple[str, ...]:
    """Say why channels aren't supported: what several share once, each channel's own reason while they are few."""
    judged = [channel for channel in channels if channel.evidence is not None and not channel.too_rare]
    lost = [channel.name for channel in judged if not channel.holds]
    by_reason: dict[str, list[str]] = {}
    for channel in judged:
        for reason in channel.verdict.reasons:
            said = WIDE if reason.startswith(_WIDE_BEGINS) else reason
            if channel.holds or len(lost) <= MAX_TOLD or said in (WIDE, *_shared(judged)):
                by_reason.setdefault(said, []).append(channel.name)
    texts = [
        reason if len(names) == len(judged) else f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()
    ]
    if len(lost) > MAX_TOLD:
        texts.append(f"Not shown to hold: {', '.join(lost)}.")
    for words, names in (
        (f"Too rare, shown by fewer than {MIN_POSITIVE_PARTICIPANTS} people", [c.name for c in channels if c.too_rare]),
        ("Refused by the audit and dropped before any fit", [c.name for c in channels if c.evidence is None]),
    ):
        if names:
            texts.append(f"{words}: {', '.join(names)}.")
    return tuple(texts)


def _shared(judged: Sequence[ChannelVerdict]) -> set[str]:
    """Reasons that all of several channels have, such as the number of people."""
    reasons = [set(channel.verdict.reasons) for channel in judged]
    return set.intersection(*reasons) if len(reasons) > 1 else set()

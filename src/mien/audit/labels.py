"""What the labels themselves say: who gave them, whether they vary, what one describes, and for how many people."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mien.audit.check import Check, Severity
from mien.core.errors import UserError
from mien.core.labels import LabelScheme, Unit, annotated_by
from mien.data.clips import ClipIndex
from mien.data.layouts import LABEL_SOURCES, check_label_source
from mien.evaluation.power import participants_needed, permutation_floor, sign_flip_floor

CONSTANT_SHARE = 0.9
"""EVALUATION.md section 2: a label that never varies within more than nine in ten people describes the person; the
tenth leaves room for slips of a coder and for recordings that were cut badly."""

REFUSED_BELOW = 3
"""One each to train, validate and test on (`data.splits.MIN_GROUPS`)."""

EXPLORATORY_BELOW = 20
"""EVALUATION.md section 3: fewer people can't support a claim; at 20 the detectable difference is about .10."""

SHOWN_FLOOR = 1e-6
"""A smallest p below this limits nothing that anybody would claim."""


def check_label_source_given(scheme: LabelScheme) -> Check:
    """Say who annotated; a study that doesn't say fails.

    Args:
        scheme: The target; its `label_source` is the study's, or `attribute`.
    """
    source = scheme.label_source
    if source == "attribute":
        detail = f"{scheme.target} is given in the study's table of recordings; nobody annotated it."
        return Check("label-source", "ok", source, "stated", detail)
    try:
        check_label_source(source)
    except UserError:
        said = f"says label_source: {source}, which isn't known" if source else "doesn't say who annotated"
        return Check(
            "label-source",
            "fail",
            source or None,
            "stated",
            f"The study {said}. Agreement with a tool and agreement with people are different claims.",
            f"Add a line to study.yaml and prepare again, such as 'label_source: human'; allowed: {LABEL_SOURCES}.",
        )
    detail = f"{scheme.target}, {annotated_by(source)}."
    if source.startswith("tool:"):
        tool = source.removeprefix("tool:")
        detail += f" A score is agreement with {tool}: its mistakes count as right, and it may have seen these pixels."
    return Check("label-source", "ok", source, "stated", detail)


def check_label_varies(clips: ClipIndex, *, people: ClipIndex | None = None) -> Check:
    """Say which classes occur, and in how many participants; refuse a target without two that people share.

    A class that fewer than `REFUSED_BELOW` independent people show can't be trained, validated and tested on with
    people apart.

    Args:
        clips: The clips of the target.
        people: The same with merged participants united, whose groups are what is independent. None for a channel
            among several: of a rare one `mien.evaluation.channel_verdict` says so and nothing is claimed.
    """
    table, scheme = clips.table, clips.scheme
    counts = [int((table["target"] == code).sum()) for code in range(len(scheme.classes))]
    counted = [
        int(table.loc[table["target"] == code, "participant_id"].nunique()) for code in range(len(scheme.classes))
    ]
    both = int((table.groupby("participant_id")["target"].nunique() >= 2).sum())
    shown = ", ".join(
        f"{name} {count} clips of {persons} participants"
        for name, count, persons in zip(scheme.classes, counts, counted, strict=True)
    )
    evidence = {"clips": dict(zip(scheme.classes, counts, strict=True))}
    evidence |= {"participants": dict(zip(scheme.classes, counted, strict=True))}
    detail = f"{shown}; {both} of {table['participant_id'].nunique()} participants show more than one class."
    present = sum(count > 0 for count in counts)
    if present < 2:
        advice = "Choose a target that varies (`mien inspect` shows them), or annotate more."
        return Check("label-varies", "fail", present, 2, detail, advice, evidence)
    independent = counted if people is None else _groups_showing(people)
    rare = [name for name, number in zip(scheme.classes, independent, strict=True) if number < REFUSED_BELOW]
    if people is not None and len(scheme.classes) - len(rare) < 2:
        enough = len(scheme.classes) - len(rare)
        detail += f" {enough or 'None'} of {len(scheme.classes)} classes {'is' if enough < 2 else 'are'} shown by "
        detail += f"{REFUSED_BELOW} independent people or more: no two can be trained and tested on with people apart."
        advice = f"Add participants, or join classes until {REFUSED_BELOW} people show each (of ages: bands of ages)."
        return Check("label-varies", "fail", enough, 2, detail, advice, evidence)
    if rare:
        advice = (
            f"{', '.join(rare)}: fewer than {REFUSED_BELOW} participants show it, so it can't be trained, validated "
            "and tested on with people apart. Add such participants, or join it with another class."
        )
        return Check("label-varies", "warn", present, 2, detail, advice, evidence)
    return Check("label-varies", "ok", present, 2, detail, evidence=evidence)


def _groups_showing(clips: ClipIndex) -> list[int]:
    """By how many independent groups of people each class is shown."""
    shown = clips.table.groupby("target")["group"].nunique()
    return [int(shown.get(code, 0)) for code in range(len(clips.scheme.classes))]


@dataclass(frozen=True)
class ConstantLabel:
    """What one label really describes.

    Attributes:
        check: What is shown.
        unit: The unit to score by: that of the study, or the participant or recording.
        refuses_baseline: Whether a personal baseline would erase the label, so that it is refused.
    """

    check: Check
    unit: Unit
    refuses_baseline: bool


def check_constant_label(clips: ClipIndex) -> ConstantLabel:
    """Find a label that says who somebody is (or which recording it is) rather than what happens when.

    The entropy H(label given participant) is 0 where a participant has one class only. Where that is so for more than
    `CONSTANT_SHARE` of those with two clips or more, and these don't all have the same class, frames of a person are
    repetitions of one answer: the unit becomes the participant (or, likewise, the recording). Where they all have
    the same class, the label is a rare event in the others, and stays one.

    Args:
        clips: The clips of the target.
    """
    scheme = clips.scheme
    shares = {unit: _constant_share(clips, unit) for unit in ("participant", "recording")}
    evidence: dict[str, Any] = {f"constant per {unit}": share for unit, (share, _) in shares.items()}
    if scheme.unit in ("recording", "participant"):
        why = (
            f"{scheme.target} is a column of the study's table of recordings, the same throughout each {scheme.unit}"
            if scheme.label_source == "attribute"
            else f"One label describes a {scheme.unit}, as the study says"
        )
        detail = f"{why}: it is scored per {scheme.unit}."
        check = Check("constant-label", "ok", shares[scheme.unit][0], CONSTANT_SHARE, detail, evidence=evidence)
        return ConstantLabel(check, scheme.unit, refuses_baseline=True)
    share, classes = shares["participant"]
    if np.isnan(share):
        detail = "No participant has two clips, so nobody can say whether the label varies within people."
        advice = "Set unit: participant in study.yaml if one label describes a person."
        check = Check("constant-label", "not checked", None, CONSTANT_SHARE, detail, advice, evidence)
        return ConstantLabel(check, scheme.unit, refuses_baseline=False)
    units: tuple[Unit, Unit] = ("participant", "recording")
    for unit in units:
        constant, shown = shares[unit]
        if constant > CONSTANT_SHARE and shown >= 2:
            check = Check(
                "constant-label",
                "warn",
                constant,
                CONSTANT_SHARE,
                f"{scheme.target} never varies within {100 * constant:.0f} % of the {unit}s (entropy 0), though the "
                f"study says that a label describes a {scheme.unit}. It is scored once per {unit}; scores per frame "
                f"are hidden, and {unit}s in which it does vary are left out.",
                f"Set unit: {unit} in study.yaml if that is what was rated. Personal baselines are refused here: they "
                "subtract what a person always shows, which is this label.",
                evidence,
            )
            return ConstantLabel(check, unit, refuses_baseline=True)
    if share > CONSTANT_SHARE and classes < 2:
        varying = int((clips.table.groupby("participant_id")["target"].nunique() > 1).sum())
        who = "1 participant" if varying == 1 else f"{varying} participants"
        detail = (
            f"{scheme.target} varies in {who} only; all others show one and the same class. "
            "Balanced accuracy is defined for those few alone."
            if varying
            else f"{scheme.target} is the same throughout: all participants show one and the same class."
        )
        advice = "Read for how many participants each score is defined, or take recordings that show it more often."
        check = Check("constant-label", "warn", share, CONSTANT_SHARE, detail, advice, evidence)
        return ConstantLabel(check, scheme.unit, refuses_baseline=False)
    detail = f"{scheme.target} varies within {100 * (1 - share):.0f} % of the participants."
    check = Check("constant-label", "ok", share, CONSTANT_SHARE, detail, evidence=evidence)
    return ConstantLabel(check, scheme.unit, refuses_baseline=False)


def with_unit(clips: ClipIndex, unit: Unit) -> ClipIndex:
    """Return the clips with another unit; units within which the label varies are left out, and listed as such.

    Args:
        clips: The clips of the target.
        unit: What one label describes, from `check_constant_label`.
    """
    if unit == clips.scheme.unit or unit not in ("recording", "participant"):
        return clips
    varies = clips.table.groupby(f"{unit}_id")["target"].transform("nunique") > 1
    excluded = clips.excluded
    if varies.any():
        left_out = clips.table[varies]
        row = (f"label varies within a {unit}", len(left_out), left_out["recording_id"].nunique())
        excluded = pd.concat([excluded, pd.DataFrame([row], columns=excluded.columns)], ignore_index=True)
    return replace(
        clips,
        scheme=replace(clips.scheme, unit=unit),
        table=clips.table[~varies].reset_index(drop=True),
        excluded=excluded,
    )


def check_few_participants(clips: ClipIndex) -> Check:
    """Say what the number of people allows at all.

    Args:
        clips: The clips of the target, with merged participants united. Its groups are what is independent.
    """
    table = clips.table
    num_groups = int(table["group"].nunique())
    floor = _floor(clips)
    measured = {"participants": int(table["participant_id"].nunique()), "independent": num_groups, "smallest_p": floor}
    enough = participants_needed()
    what = "participant" if num_groups == measured["participants"] else "independent group"
    detail = f"{num_groups} {what}{'' if num_groups == 1 else 's'}"
    detail += f": no test over them can give a p below {floor:.2g}." if floor > SHOWN_FLOOR else "."
    severity: Severity = "ok"
    advice = ""
    if num_groups < REFUSED_BELOW:
        severity = "fail"
        advice = f"Add people: {REFUSED_BELOW} are needed to train, validate and test on, {enough} for any p below .05."
    elif num_groups < EXPLORATORY_BELOW:
        severity = "warn"
        advice = f"A result can be exploratory at most; {EXPLORATORY_BELOW} people or more can support a claim."
        if floor > 0.05:
            advice += f" {enough} are needed for any p below .05."
    threshold = {"fail": REFUSED_BELOW, "exploratory": EXPLORATORY_BELOW}
    return Check("few-participants", severity, measured, threshold, detail, advice)


def _floor(clips: ClipIndex) -> float:
    """Smallest p: of permuted people where the label is one of the person, else of flipped signs."""
    table, scheme = clips.table, clips.scheme
    labels = table.groupby("group")["target"]
    if scheme.kind == "binary" and scheme.unit in ("recording", "participant") and (labels.nunique() == 1).all():
        return permutation_floor(int(labels.ngroups), int((labels.first() == 1).sum()))
    return sign_flip_floor(int(labels.ngroups))


def _constant_share(clips: ClipIndex, unit: str) -> tuple[float, int]:
    """Share of units with two clips or more in which the label doesn't vary, and how many classes those show."""
    targets = clips.table.groupby(f"{unit}_id")["target"]
    several = targets.size() >= 2
    constant = (targets.nunique() == 1) & several
    if not several.any():
        return float("nan"), 0
    return float(np.sum(constant) / np.sum(several)), int(targets.first()[constant].nunique())

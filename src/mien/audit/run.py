"""The audit, check by check: first people, labels and clocks, then what can be told without the face.

`audit_people` needs no folds and says who is one person; `audit_content` fits reference models on the folds of people
that follow from it. `run_audit` does both, for `mien audit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mien.audit.autocorrelation import check_time_correlation
from mien.audit.check import CHECK_NAMES, CHECK_TITLES, Check, check_json, failed_checks, verdict_of
from mien.audit.clock import check_clock
from mien.audit.copies import NUM_QUERIES, check_contradictory_labels, check_copies
from mien.audit.hidden_face import check_hidden_face, hidden_face_name, hidden_face_predictions, read_hidden_faces
from mien.audit.identity import check_same_person, merge_participants
from mien.audit.labels import (
    check_constant_label,
    check_few_participants,
    check_label_source_given,
    check_label_varies,
    with_unit,
)
from mien.audit.leakage import LeakageGap, check_leakage_gap, leakage_gaps
from mien.audit.nuisances import check_nuisances, nuisance_name, nuisance_predictions
from mien.audit.overlap import BackboneFact, check_lineage, check_split_overlap
from mien.audit.overlays import check_overlays
from mien.audit.stimulus import PEER, check_stimulus, held_out_segment_scores, peer_predictions
from mien.core.errors import NothingToLearnError
from mien.core.progress import progress
from mien.core.storage import write_json
from mien.core.types import Split
from mien.data.clips import ClipIndex, build_clips
from mien.data.dataset import Dataset
from mien.data.splits import MIN_GROUPS, make_folds
from mien.evaluation.intervals import Interval
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import DEFAULT_CROP, Encoder
from mien.runtime.material import Material

AUDIT_FILE = "audit.json"

AUDIT_FOLDS = 5
"""Folds of the reference models where no comparison says how many."""

NO_TARGET = "mien audit DATASET --target NAME checks it."


@dataclass(frozen=True)
class Audit:
    """What was checked, and what follows from it for every later step.

    Attributes:
        target: The target; None where people and clocks were checked only.
        checks: The checks so far, in the order of `CHECK_NAMES`.
        overrides: Checks whose failure doesn't stop anything.
        merged: Sets of participants that count as one.
        clips: The target's clips with merged participants united and the unit that one label really describes; None
            without a target, or where nothing can be learnt from it.
        references: Predictions tables of reference models: nuisances, face hidden, peer, linear probe.
        leakage_gaps: Per features and baseline the probe with frames mixed and with people apart.
        stimulus_locked: Whether a claim is limited to the stimuli of the study.
    """

    target: str | None
    checks: tuple[Check, ...]
    overrides: tuple[str, ...] = ()
    merged: tuple[tuple[str, ...], ...] = ()
    clips: ClipIndex | None = None
    references: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"model": pd.Series(dtype=object)}))
    leakage_gaps: tuple[dict[str, Any], ...] = ()
    stimulus_locked: bool = False

    @property
    def refusals(self) -> list[Check]:
        """Checks that fail and aren't overridden."""
        return failed_checks(self.checks, overrides=self.overrides)

    def refusal_reasons(self) -> list[str]:
        """Return one sentence per check that refuses, with what to do."""
        return [
            f"{check.title} ({check.name}): {check.detail} {check.advice} To go on in spite of it: "
            f"--override {check.name}."
            for check in self.refusals
        ]

    def faceless_references(self, baseline: str) -> list[str]:
        """Return the names of the references that see no face, under a model's personal baseline."""
        own = PersonalBaseline.parse(baseline)
        names = (nuisance_name(own), hidden_face_name(own), PEER)
        return [name for name in names if name in set(self.references["model"])]

    def sampled(self) -> str:
        """Say what was sampled."""
        return f"copies: up to {NUM_QUERIES} frames of each participant against all frames of all others"


def audit_people(dataset: Dataset, *, clips: ClipIndex | None, overrides: Sequence[str] = (), seed: int = 0) -> Audit:
    """Check who is one person, who annotated, what one label describes, and the clocks.

    Args:
        dataset: The dataset.
        clips: The clips of a target; None to check people and clocks only.
        overrides: Checks whose failure shall not stop what follows.
        seed: Decides which frames are looked at for copies.
    """
    with progress("Checking people and clocks", total=4) as advance:
        copies = check_copies(dataset, None if clips is None else clips.table, seed=seed)
        advance("copies")
        checks = [copies.check, check_same_person(), check_clock(dataset)]
        advance("clock")
        checks.append(check_overlays(dataset))
        advance("overlays")
        if clips is None:
            return Audit(None, _ordered(checks), tuple(overrides), copies.merged)
        constant = check_constant_label(clips)
        checks += [
            check_label_source_given(clips.scheme),
            check_label_varies(clips),
            constant.check,
            check_contradictory_labels(copies, clips),
        ]
        united = _unite(with_unit(clips, constant.unit), merged=copies.merged)
        checks.append(check_few_participants(united))
        advance("labels")
    return Audit(clips.scheme.target, _ordered(checks), tuple(overrides), copies.merged, united)


def audit_content(
    audit: Audit,
    *,
    dataset: Dataset,
    splits: Sequence[Split],
    baselines: Sequence[PersonalBaseline],
    encoders: Mapping[str, Encoder],
    backbones: Sequence[BackboneFact] = (),
    seed: int = 0,
) -> Audit:
    """Check the folds, and what can be told of the label without the face, under the models' personal baselines.

    Args:
        audit: What `audit_people` found, with clips.
        dataset: The dataset.
        splits: The folds of the models.
        baselines: The personal baselines of the models.
        encoders: Frozen encoders of the models, by the name that the user gave them.
        backbones: What is known of the data that backbones were trained on.
        seed: Seed of the frame-level split of the leakage gap.
    """
    assert audit.clips is not None, "what a label can be told from needs a target"
    clips, material = audit.clips, Material(dataset, audit.clips)
    readers = [encoder for name, encoder in encoders.items() if name != "hog"]
    wanted = list(dict.fromkeys(baselines)) or [PersonalBaseline()]
    checks = [check_split_overlap(splits, clips, dataset, backbones=backbones), check_lineage(clips, splits)]
    with progress("Checking what can be told without the face", total=4) as advance:
        gaps = leakage_gaps(material, splits=splits, baselines=wanted, encoders=readers, seed=seed)
        checks.append(check_leakage_gap(gaps))
        if gaps:
            checks.append(check_time_correlation(gaps[0].predictions, clips.scheme))
        advance("leakage gap")
        nuisances = nuisance_predictions(material, splits=splits, baselines=wanted)
        checks.append(check_nuisances(nuisances, clips=clips, splits=splits))
        advance("nuisances")
        crop = max([DEFAULT_CROP, *(encoder.spec.crop for encoder in readers)])
        hidden = read_hidden_faces(material, splits=splits, baselines=wanted, encoders=readers, crop=crop)
        full: dict[str, Interval] = {str(gap.baseline): gap.apart for gap in gaps if gap.features == "hog"}
        checks.append(check_hidden_face(hidden, clips=clips, splits=splits, full=full))
        advance("face hidden")
        peer = peer_predictions(material, splits=splits)
        held_out = held_out_segment_scores(material, splits=splits, baselines=wanted)
        stimulus, locked = check_stimulus(peer, dataset=dataset, clips=clips, splits=splits, held_out=held_out)
        checks.append(stimulus)
        advance("stimulus")
    tables = [*nuisances.values(), *hidden_face_predictions(hidden).values(), peer, *_probes(gaps, baselines=wanted)]
    return dataclasses.replace(
        audit,
        checks=_ordered([*audit.checks, *checks]),
        references=pd.concat(tables, ignore_index=True),
        leakage_gaps=tuple(_gap_json(gap, encoders=encoders) for gap in gaps),
        stimulus_locked=locked,
    )


def run_audit(
    dataset: Dataset, *, target: str | None, folds: int = AUDIT_FOLDS, seed: int = 0, overrides: Sequence[str] = ()
) -> Audit:
    """Check a dataset as `mien audit` does: without and with the personal baseline, where it makes sense.

    Args:
        dataset: The dataset.
        target: The target; None to check people and clocks only.
        folds: Folds of the reference models; fewer where there are fewer groups.
        seed: Seed of the folds.
        overrides: Checks whose failure counts as seen.

    Raises:
        UserError: An unknown target, or one that no frame can be used for.
    """
    if target is None:
        return complete(audit_people(dataset, clips=None, overrides=overrides, seed=seed), why=NO_TARGET)
    try:
        clips = build_clips(dataset, target=target)
    except NothingToLearnError as error:
        people = audit_people(dataset, clips=None, overrides=overrides, seed=seed)
        advice = "Choose a target that varies (`mien inspect` shows them), or annotate more."
        check = Check("label-varies", "fail", 1, 2, str(error), advice)
        found = dataclasses.replace(people, target=target, checks=_ordered([*people.checks, check]))
        return complete(found, why="Nothing can be learnt from a target that never varies.")
    audit = audit_people(dataset, clips=clips, overrides=overrides, seed=seed)
    assert audit.clips is not None, "an audit with a target has its clips"
    groups = audit.clips.table["group"].nunique()
    if groups < MIN_GROUPS:
        return complete(audit, why=f"It needs {MIN_GROUPS} people: some to train, some to test on.")
    return audit_content(
        audit,
        dataset=dataset,
        splits=make_folds(audit.clips, folds=min(folds, groups), seed=seed),
        baselines=_sensible_baselines(audit.clips),
        encoders={},
        seed=seed,
    )


def complete(audit: Audit, *, why: str) -> Audit:
    """Return the audit with every check that wasn't made listed as such.

    Args:
        audit: The audit.
        why: Why they weren't made, and what would.
    """
    there = {check.name for check in audit.checks}
    missing = [
        Check(name, "not checked", None, None, f"{CHECK_TITLES[name]}: not checked.", why)
        for name in CHECK_NAMES
        if name not in there
    ]
    return dataclasses.replace(audit, checks=_ordered([*audit.checks, *missing]))


def audit_json(audit: Audit, *, dataset: Dataset) -> dict[str, Any]:
    """Return the audit as `audit.json` holds it."""
    finished = complete(audit, why="An earlier check refused before it could be made.")
    people = dataset.recordings if audit.clips is None else audit.clips.table
    return {
        "verdict": verdict_of(finished.checks),
        "target": audit.target,
        "label_source": dataset.label_source if audit.clips is None else audit.clips.scheme.label_source,
        "participants": int(people["participant_id"].nunique()),
        "merged_participants": [list(ids) for ids in audit.merged],
        "overrides": list(audit.overrides),
        "checks": [check_json(check) for check in finished.checks],
        "sampled": audit.sampled(),
        "dataset": {"path": str(dataset.path), "hash": dataset.content_hash},
    }


def write_audit(audit: Audit, *, dataset: Dataset, path: Path) -> Path:
    """Write `audit.json` and return its path."""
    write_json(path, audit_json(audit, dataset=dataset))
    return path


def card_facts(audit: Audit) -> dict[str, Any]:
    """Return what a model card says of the audit."""
    finished = complete(audit, why="It needs more people.")
    return {
        "verdict": verdict_of(finished.checks),
        "overrides": list(audit.overrides),
        "merged_participants": [list(ids) for ids in audit.merged],
        "checks": [
            {"name": check.name, "title": check.title, "severity": check.severity, "detail": check.detail}
            for check in finished.checks
        ],
    }


def _unite(clips: ClipIndex, *, merged: Sequence[Sequence[str]]) -> ClipIndex:
    """Merge participants; where one label describes a person, people who got several that way are left out."""
    united = merge_participants(clips, merged)
    if not merged or united.scheme.unit not in ("recording", "participant"):
        return united
    as_frames = dataclasses.replace(united, scheme=dataclasses.replace(united.scheme, unit="frame"))
    consistent = with_unit(as_frames, united.scheme.unit)
    return consistent if len(consistent.table) else united


def _sensible_baselines(clips: ClipIndex) -> list[PersonalBaseline]:
    """Without a baseline, and minus the recording's mean where that can be had."""
    recording = PersonalBaseline("recording")
    seconds = (clips.table["end_s"] - clips.table["start_s"]).groupby(clips.table["recording_id"]).sum()
    if clips.scheme.unit in ("recording", "participant") or seconds.min() < recording.needed_s:
        return [PersonalBaseline()]
    return [PersonalBaseline(), recording]


def _probes(gaps: Sequence[LeakageGap], *, baselines: Sequence[PersonalBaseline]) -> list[pd.DataFrame]:
    """The linear probe on HOG under the models' baselines: what every bigger model has to beat."""
    own = [gap for gap in gaps if gap.features == "hog" and gap.baseline in baselines]
    return [
        gap.predictions.assign(model="linear_probe@hog" + ("" if gap.baseline.kind == "none" else f"+{gap.baseline}"))
        for gap in own
    ]


def _gap_json(gap: LeakageGap, *, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    backbone = next((name for name, encoder in encoders.items() if encoder.spec.name == gap.features), gap.features)
    return gap.to_json() | {"backbone": backbone}


def _ordered(checks: Sequence[Check]) -> tuple[Check, ...]:
    return tuple(sorted(checks, key=lambda check: CHECK_NAMES.index(check.name)))

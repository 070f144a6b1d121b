"""The audit, check by check: first people, labels and clocks, then what can be told without the face.

`audit_people` needs no folds and says who is one person; `audit_content` fits reference models on the folds of people
that follow from it. `mien.audit.standalone` does both, for `mien audit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mien.audit.autocorrelation import check_time_correlation
from mien.audit.channels import (
    PEOPLE_CHECKS,
    check_channel_folds,
    check_constant_channel,
    combined_checks,
    nobody_annotated,
    splits_of,
    verdict_of_channels,
)
from mien.audit.check import (
    CHECK_NAMES,
    CHECK_TITLES,
    AuditVerdict,
    Check,
    check_json,
    refusal_reason,
    refusals_among,
    verdict_of,
)
from mien.audit.clock import check_clock
from mien.audit.copies import NUM_QUERIES, CopyResult, check_contradictory_labels, check_copies
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
from mien.evaluation.intervals import Interval
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import DEFAULT_CROP
from mien.runtime.material import Material
from mien.runtime.sound_encoders import AnyEncoder, looking

AUDIT_FILE = "audit.json"

BUILT_IN = ("hog", "logmel")
"""Features of the reference probe: of pictures, and where recordings have none, of sound."""

TOO_EARLY = "An earlier check refused before it could be made."


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
        channels: Of a target of several channels the audit of each, on the clips of its binary view; empty for any
            other target. `checks` then hold the worst of them, `clips` the channels that aren't refused.
    """

    target: str | None
    checks: tuple[Check, ...]
    overrides: tuple[str, ...] = ()
    merged: tuple[tuple[str, ...], ...] = ()
    clips: ClipIndex | None = None
    references: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"model": pd.Series(dtype=object)}))
    leakage_gaps: tuple[dict[str, Any], ...] = ()
    stimulus_locked: bool = False
    channels: Mapping[str, Audit] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[str, ...]:
        """Channels that no check refuses."""
        return tuple(name for name in self.channels if name not in self.dropped())

    @property
    def refusals(self) -> list[Check]:
        """Checks that fail and aren't, or can't be, overridden; of several channels none while one of them is kept."""
        return [] if self.channels and self.kept else refusals_among(self.checks, overrides=self.overrides)

    def refusal_reasons(self) -> list[str]:
        """Return one sentence per check that refuses, with what to do."""
        return [refusal_reason(check) for check in self.refusals]

    def dropped(self) -> dict[str, list[str]]:
        """Return the channels that are refused, each with one sentence per check that refuses it."""
        refusals = {name: refusals_among(own.checks, overrides=self.overrides) for name, own in self.channels.items()}
        return {name: [refusal_reason(each) for each in own] for name, own in refusals.items() if own}

    def faceless_references(self, baseline: str) -> list[str]:
        """Return the names of the references that see no face, under a model's personal baseline."""
        own = PersonalBaseline.parse(baseline)
        names = (nuisance_name(own), hidden_face_name(own), PEER)
        return [name for name in names if name in set(self.references["model"])]

    def sampled(self) -> str:
        """Say what was sampled."""
        return f"copies: up to {NUM_QUERIES} frames of each participant against all frames of all others"


def audit_target(
    dataset: Dataset,
    *,
    target: str,
    needs: Collection[str] | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
) -> tuple[ClipIndex, Audit]:
    """Return the clips of a target and the audit of its people and labels; it refuses a target that never varies.

    Args:
        dataset: The dataset.
        target: Name of the target; several separated by commas, or `all`.
        needs: What every clip has to have (`build_clips`).
        overrides: Checks whose failure shall not stop what follows.
        seed: Decides which frames are looked at for copies.

    Raises:
        UserError: An unknown target, or one that no frame can be used for.
    """
    try:
        clips = build_clips(dataset, target=target, needs=needs)
    except NothingToLearnError as error:
        clips = build_clips(dataset, target=target, needs=needs, constant="kept")
        audit = audit_people(dataset, clips=clips, overrides=overrides, seed=seed)
        if audit.channels:
            return clips, audit
        # It names the targets that do vary.
        others = [check for check in audit.checks if check.name != "label-varies"]
        advice = "Choose a target that varies (`mien inspect` shows them), or annotate more."
        check = Check("label-varies", "fail", 1, 2, str(error), advice)
        return clips, dataclasses.replace(audit, checks=_ordered([*others, check]))
    return clips, audit_people(dataset, clips=clips, overrides=overrides, seed=seed)


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
        given: dict[str, Any] = {"copies": copies, "people": checks, "overrides": tuple(overrides)}
        found = _channels_audit(clips, **given) if clips.scheme.channels else _labels_audit(clips, **given)
        advance("labels")
    return found


def _labels_audit(
    clips: ClipIndex, *, copies: CopyResult, people: Sequence[Check], overrides: tuple[str, ...]
) -> Audit:
    """Check the labels of a target of one channel."""
    constant = check_constant_label(clips)
    united = _unite(with_unit(clips, constant.unit), merged=copies.merged)
    checks = [
        *people,
        check_label_source_given(clips.scheme),
        check_label_varies(clips, people=merge_participants(clips, copies.merged)),
        constant.check,
        check_contradictory_labels(copies, clips),
        check_few_participants(united),
    ]
    return Audit(clips.scheme.target, _ordered(checks), overrides, copies.merged, united)


def _channels_audit(
    clips: ClipIndex, *, copies: CopyResult, people: Sequence[Check], overrides: tuple[str, ...]
) -> Audit:
    """Check the labels of each channel, on its binary view."""
    united, audits = merge_participants(clips, copies.merged), {}
    for channel in clips.scheme.channels:
        view = clips.view(channel)
        own = [nobody_annotated(view.scheme)]
        if len(view.table):
            own = [
                check_label_source_given(view.scheme),
                check_label_varies(view),
                check_constant_channel(view, kind=clips.scheme.kind),
                check_contradictory_labels(copies, view),
                check_few_participants(united.view(channel)),
            ]
        checks = _ordered([*people, *own])
        audits[channel] = Audit(channel, checks, overrides, copies.merged, united.view(channel))
    return _put_together(Audit(clips.scheme.target, (), overrides, copies.merged, united), audits)


def _put_together(audit: Audit, channels: Mapping[str, Audit]) -> Audit:
    """Return the audit of the whole target with these channels: the worst checks, and the clips of what is kept."""
    whole = dataclasses.replace(audit, channels=dict(channels))
    checks = combined_checks({name: own.checks for name, own in channels.items()}, refused=whole.dropped())
    whole = dataclasses.replace(whole, checks=checks)
    if not whole.kept or whole.clips is None:
        return whole
    return dataclasses.replace(whole, clips=whole.clips.only(whole.kept))


def audit_content(
    audit: Audit,
    *,
    dataset: Dataset,
    splits: Sequence[Split],
    baselines: Sequence[PersonalBaseline],
    encoders: Mapping[str, AnyEncoder],
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
    given: dict[str, Any] = {"dataset": dataset, "baselines": baselines, "encoders": encoders, "seed": seed}
    people = [
        check_split_overlap(splits, audit.clips, dataset, backbones=backbones),
        check_lineage(audit.clips, splits),
    ]
    if not audit.channels:
        return _content_audit(audit, people=people, splits=splits, **given)
    channels = {}
    for name, own in audit.channels.items():
        assert own.clips is not None, "a channel has its clips"
        folds = splits_of(own.clips, splits)
        unfit = check_channel_folds(own.clips, folds) if name in audit.kept else None
        if unfit is not None:
            others = [check for check in own.checks if check.name != unfit.name]
            channels[name] = dataclasses.replace(own, checks=_ordered([*others, *people, unfit]))
        elif name in audit.kept:
            channels[name] = _content_audit(own, people=people, splits=folds, **given)
        else:
            channels[name] = dataclasses.replace(own, checks=_ordered([*own.checks, *people]))
    return _put_together(audit, channels)


def _content_audit(
    audit: Audit,
    *,
    people: Sequence[Check],
    dataset: Dataset,
    splits: Sequence[Split],
    baselines: Sequence[PersonalBaseline],
    encoders: Mapping[str, AnyEncoder],
    seed: int,
) -> Audit:
    """Check what can be told of the label of one target, or of one channel, without the face."""
    assert audit.clips is not None, "what a label can be told from needs a target"
    clips, material = audit.clips, Material(dataset, audit.clips)
    readers = [encoder for name, encoder in encoders.items() if name not in BUILT_IN]
    wanted = list(dict.fromkeys(baselines)) or [PersonalBaseline()]
    checks = list(people)
    with progress(f"Checking what can be told of {audit.target} without the face", total=4) as advance:
        gaps = leakage_gaps(material, splits=splits, baselines=wanted, encoders=readers, seed=seed)
        checks.append(check_leakage_gap(gaps))
        if gaps:
            checks.append(check_time_correlation(gaps[0].predictions, clips.scheme))
        advance("leakage gap")
        nuisances = nuisance_predictions(material, splits=splits, baselines=wanted)
        checks.append(check_nuisances(nuisances, clips=clips, splits=splits, sense=material.sense))
        advance("nuisances")
        seeing = looking(readers)
        crop = max([DEFAULT_CROP, *(encoder.spec.crop for encoder in seeing)])
        hidden = read_hidden_faces(material, splits=splits, baselines=wanted, encoders=seeing, crop=crop)
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


def complete(audit: Audit, *, why: str) -> Audit:
    """Return the audit with every check that wasn't made listed as such.

    Args:
        audit: The audit.
        why: Why they weren't made, and what would.
    """
    if audit.channels:
        return _put_together(audit, {name: complete(own, why=why) for name, own in audit.channels.items()})
    there = {check.name for check in audit.checks}
    missing = [
        Check(name, "not checked", None, None, f"{CHECK_TITLES[name]}: not checked.", why)
        for name in CHECK_NAMES
        if name not in there
    ]
    return dataclasses.replace(audit, checks=_ordered([*audit.checks, *missing]))


def audit_json(audit: Audit, *, dataset: Dataset) -> dict[str, Any]:
    """Return the audit as `audit.json` holds it."""
    finished = complete(audit, why=TOO_EARLY)
    people = dataset.recordings if audit.clips is None else audit.clips.table
    found = {
        "verdict": _verdict(finished),
        "target": audit.target,
        "label_source": dataset.label_source if audit.clips is None else audit.clips.scheme.label_source,
        "participants": int(people["participant_id"].nunique()),
        "merged_participants": [list(ids) for ids in audit.merged],
        "overrides": list(audit.overrides),
        "checks": [check_json(check) for check in finished.checks],
        "sampled": audit.sampled(),
        "dataset": {"path": str(dataset.path), "hash": dataset.content_hash},
    }
    if not finished.channels:
        return found
    return found | {"channels": {name: _channel_json(finished, name) for name in finished.channels}}


def _channel_json(audit: Audit, name: str) -> dict[str, Any]:
    """What `audit.json` says of one channel; the checks of people stand above, once for all."""
    own = audit.channels[name]
    return {
        "verdict": verdict_of(own.checks),
        "refused": name not in audit.kept,
        "reasons": audit.dropped().get(name, []),
        "label_source": None if own.clips is None else own.clips.scheme.label_source,
        "participants": 0 if own.clips is None else int(own.clips.table["participant_id"].nunique()),
        "checks": [check_json(check) for check in own.checks if check.name not in PEOPLE_CHECKS],
    }


def _verdict(audit: Audit) -> AuditVerdict:
    if audit.channels:
        return verdict_of_channels([own.checks for own in audit.channels.values()])
    return verdict_of(audit.checks)


def write_audit(audit: Audit, *, dataset: Dataset, path: Path) -> Path:
    """Write `audit.json` and return its path."""
    write_json(path, audit_json(audit, dataset=dataset))
    return path


def card_facts(audit: Audit) -> dict[str, Any]:
    """Return what a model card says of the audit."""
    finished = complete(audit, why="It needs more people.")
    return {
        "verdict": _verdict(finished),
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


def _probes(gaps: Sequence[LeakageGap], *, baselines: Sequence[PersonalBaseline]) -> list[pd.DataFrame]:
    """The linear probe on HOG (or log-mel) under the models' baselines: what every bigger model has to beat."""
    own = [gap for gap in gaps if gap.features in BUILT_IN and gap.baseline in baselines]
    return [
        gap.predictions.assign(
            model=f"linear_probe@{gap.features}" + ("" if gap.baseline.kind == "none" else f"+{gap.baseline}")
        )
        for gap in own
    ]


def _gap_json(gap: LeakageGap, *, encoders: Mapping[str, AnyEncoder]) -> dict[str, Any]:
    backbone = next((name for name, encoder in encoders.items() if encoder.spec.name == gap.features), gap.features)
    return gap.to_json() | {"backbone": backbone}


def _ordered(checks: Sequence[Check]) -> tuple[Check, ...]:
    return tuple(sorted(checks, key=lambda check: CHECK_NAMES.index(check.name)))

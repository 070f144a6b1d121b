"""`mien audit`: the whole audit of a dataset, without and with the personal baseline, without a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from mien.audit.run import Audit, audit_content, audit_people, audit_target, complete
from mien.core.storage import digest_of
from mien.data.attempts import LOOKS, record_attempts
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.data.splits import MIN_GROUPS, make_folds
from mien.evaluation.probe import ProbeConfig
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.material import Material

AUDIT_FOLDS = 5
"""Folds of the reference models where no comparison says how many."""

NO_TARGET = "mien audit DATASET --target NAME checks it."


def run_audit(
    dataset: Dataset, *, target: str | None, folds: int = AUDIT_FOLDS, seed: int = 0, overrides: Sequence[str] = ()
) -> Audit:
    """Check a dataset as `mien audit` does: without and with the personal baseline, where it makes sense.

    With a target it shows what reference probes score on people that they never saw, so that it counts as a look at the
    outcome (`mien.data.attempts`): a plan that is written afterwards makes no comparison confirmatory.

    Args:
        dataset: The dataset.
        target: The target; None to check people and clocks only.
        folds: Folds of the reference models; fewer where there are fewer groups.
        seed: Seed of the folds.
        overrides: Checks whose failure counts as seen.

    Raises:
        UserError: An unknown target, one that no frame can be used for, or a dataset that can't be written to.
    """
    if target is None:
        return complete(audit_people(dataset, clips=None, overrides=overrides, seed=seed), why=NO_TARGET)
    _, audit = audit_target(dataset, target=target, overrides=overrides, seed=seed)
    assert audit.clips is not None, "an audit with a target has its clips"
    if audit.channels and not audit.kept:
        return complete(audit, why="Every channel is refused already.")
    if any(check.name == "label-varies" and check.severity == "fail" for check in audit.checks) and not audit.channels:
        return complete(audit, why="Nothing can be learnt from a target without two classes that people share.")
    groups = audit.clips.table["group"].nunique()
    if groups < MIN_GROUPS:
        return complete(audit, why=f"It needs {MIN_GROUPS} people: some to train, some to test on.")
    baselines = _sensible_baselines(audit.clips)
    _record(dataset, audit=audit, baselines=baselines, folds=folds, seed=seed)
    return audit_content(
        audit,
        dataset=dataset,
        splits=make_folds(audit.clips, folds=min(folds, groups), seed=seed),
        baselines=baselines,
        encoders={},
        seed=seed,
    )


def _record(dataset: Dataset, *, audit: Audit, baselines: Sequence[PersonalBaseline], folds: int, seed: int) -> None:
    """Count the audit as a look at the target, before its probes are scored."""
    assert audit.clips is not None and audit.target is not None, "an audit with a target has its clips"
    features = "hog" if Material(dataset, audit.clips).sense == "video" else "logmel"
    record_attempts(
        dataset.path,
        target=audit.target,
        run_id=LOOKS["audit"] + digest_of([dataset.content_hash, audit.target, folds, seed]),
        models=[f"linear_probe@{features}+{baseline}" for baseline in baselines],
        settings={"C": ProbeConfig().C, "folds": folds},
        seed=seed,
    )


def _sensible_baselines(clips: ClipIndex) -> list[PersonalBaseline]:
    """Without a baseline, and minus the recording's mean where that can be had."""
    recording = PersonalBaseline("recording")
    seconds = (clips.table["end_s"] - clips.table["start_s"]).groupby(clips.table["recording_id"]).sum()
    if clips.scheme.unit in ("recording", "participant") or seconds.min() < recording.needed_s:
        return [PersonalBaseline()]
    return [PersonalBaseline(), recording]

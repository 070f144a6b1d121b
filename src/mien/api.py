"""The verbs of the command line as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from mien.data.dataset import Dataset
    from mien.runtime.bundle import Bundle

PathLike = str | Path


class Model:
    """A bundle, opened.

    Attributes:
        bundle: The bundle; `bundle.spec` says what it is and expects.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, video: PathLike, *, signals: PathLike | None = None) -> pd.DataFrame:
        """Return the timeline of a video: start_s, end_s, logit_*, prob_*, calibrated_*, face_found, abstained.

        `calibrated_*` is missing (NaN) where too few inner participants were there to calibrate on; `abstained` says
        why nothing, or nothing certain, is said of a moment (see `mien predict`).

        Args:
            video: A video file.
            signals: The export that holds its sensor signals, for models that look at them.
        """
        from mien.predict.predictor import predict_timeline

        return predict_timeline(self.bundle, Path(video), signals=None if signals is None else Path(signals))

    def events(self, timeline: pd.DataFrame) -> pd.DataFrame:
        """Return the events of a timeline: onset_s, offset_s, label, confidence and the ranges of both edges.

        Raises:
            UserError: There are none of this model or recording, such as where it is sampled too rarely.
        """
        from mien.core.errors import UserError
        from mien.predict.timeline_events import timeline_events

        found = timeline_events(timeline, spec=self.bundle.spec)
        if found.table is None:
            raise UserError(found.reason)
        return found.table


def prepare(study: PathLike, *, out: PathLike, **settings: Any) -> Dataset:
    """Turn a study into a dataset; settings are the fields of `mien.data.settings.PrepareConfig`."""
    from mien.core.config import build_config
    from mien.data.prepare import prepare as prepare_dataset
    from mien.data.settings import PrepareConfig

    return prepare_dataset(Path(study), out=Path(out), config=build_config(PrepareConfig, settings, where="prepare"))


def frames(
    videos: Sequence[PathLike], *, out: PathLike, every: int | None = 30, fps: float | None = None, size_px: int = 224
) -> list[Path]:
    """Save frames of videos as JPGs and return their paths; `fps` replaces `every`."""
    from mien.media.frames import extract_frames

    chosen = None if fps else every
    return extract_frames([Path(video) for video in videos], Path(out), every=chosen, fps=fps, size_px=size_px)


def audit(dataset: PathLike, *, target: str | None = None, folds: int = 5, seed: int = 0) -> dict[str, Any]:
    """Check a dataset for what makes scores untrue; writes and returns what `audit.json` holds."""
    from mien.audit.run import AUDIT_FILE, write_audit
    from mien.audit.standalone import run_audit
    from mien.core.storage import read_json
    from mien.data.dataset import Dataset
    from mien.report.audit_report import write_audit_report

    opened = Dataset.open(Path(dataset))
    found = run_audit(opened, target=target, folds=folds, seed=seed)
    path = write_audit(found, dataset=opened, path=Path(dataset) / AUDIT_FILE)
    write_audit_report(path, picture=opened.picture)
    result: dict[str, Any] = read_json(path)
    return result


def compare(
    dataset: PathLike,
    *,
    target: str,
    models: str | Sequence[str],
    out: PathLike,
    folds: int | Literal["loo"] = 5,
    epochs: int | None = None,
    seed: int = 0,
    config: PathLike | None = None,
    baseline: str = "none",
    random_init: bool = False,
    overrides: Sequence[str] = (),
    reference: str | None = None,
) -> dict[str, Any]:
    """Compare models under participant-wise cross-validation and return what `comparison.json` holds.

    Raises:
        RefusedError: The audit refuses; `comparison.json` and the report hold its reasons and no score.
    """
    from mien.core.storage import read_json
    from mien.crossval.compare import plan_comparison, run_comparison
    from mien.training.settings import load_settings

    settings = load_settings(Path(config) if config else None, epochs=epochs, random_init=random_init)
    plan = plan_comparison(
        Path(dataset),
        target=target,
        models=models,
        out=Path(out),
        folds=folds,
        seed=seed,
        baseline=baseline,
        settings=settings,
        overrides=overrides,
        reference=reference,
    )
    run_comparison(plan)
    result: dict[str, Any] = read_json(Path(out) / "comparison.json")
    return result


def train(
    dataset: PathLike,
    *,
    target: str,
    model: str,
    out: PathLike,
    epochs: int | None = None,
    seed: int = 0,
    config: PathLike | None = None,
    baseline: str = "none",
    random_init: bool = False,
    overrides: Sequence[str] = (),
    run: PathLike | None = None,
) -> Model:
    """Train the final model, write its bundle and return it."""
    from mien.training.final import plan_training, train_bundle
    from mien.training.settings import load_settings

    settings = load_settings(Path(config) if config else None, epochs=epochs, random_init=random_init)
    plan = plan_training(
        Path(dataset),
        target=target,
        model=model,
        out=Path(out),
        seed=seed,
        baseline=baseline,
        settings=settings,
        overrides=overrides,
        run=Path(run) if run else None,
    )
    train_bundle(plan)
    return load(out)


def load(bundle: PathLike) -> Model:
    """Open a bundle."""
    from mien.runtime.bundle import Bundle

    return Model(Bundle.open(Path(bundle)))


def explain(
    bundle: PathLike,
    source: PathLike,
    *,
    out: PathLike,
    method: str | None = None,
    frames: int = 8,
    participants: int = 20,
    layer: int | None = None,
    video: bool = False,
    signals: PathLike | None = None,
    seed: int = 0,
    channel: str | None = None,
) -> dict[str, Any]:
    """Draw what a bundle's answers on a video, a picture or a dataset come from; returns `explanations.json`."""
    from mien.explain.run import ExplainOptions
    from mien.explain.run import explain as explain_bundle

    options = ExplainOptions(
        method=method,
        frames=frames,
        participants=participants,
        layer=layer,
        video=video,
        signals=Path(signals) if signals else None,
        seed=seed,
        channel=channel,
    )
    return explain_bundle(Path(bundle), Path(source), out=Path(out), options=options)

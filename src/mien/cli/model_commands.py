"""Commands about models: `demo`, `compare`, `train`, `predict`, `report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.audit_commands import OverrideOption
from mien.cli.data_commands import DryRunOption, JsonOption, WeightsOption
from mien.cli.errors import print_json, reported, use_weights_directory
from mien.cli.options import SeedOption, parse_folds, require_training
from mien.core.errors import RefusedError, UserError
from mien.core.progress import say

TargetOption = Annotated[str, typer.Option("--target", help="Target, several with commas, or all; see `mien inspect`.")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Most epochs of each phase.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML with settings; see docs/compare.md.")]
BaselineOption = Annotated[
    str,
    typer.Option("--baseline", help="Personal baseline of models that name none: none, recording, running, first:S."),
]
RandomOption = Annotated[
    bool, typer.Option("--random-init", help="Go on with random weights where pretrained ones can't be had.")
]


@reported
def compare(
    dataset: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    target: TargetOption,
    models: Annotated[str, typer.Option("--models", help="NAME[@BACKBONE][+BASELINE], separated by commas.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    folds: Annotated[str, typer.Option("--folds", help="Number of folds, or loo (one group each).")] = "5",
    epochs: EpochsOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    override: OverrideOption = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Model that the others are held against (default: first probe).")
    ] = None,
    baseline: BaselineOption = "none",
    random_init: RandomOption = False,
    weights_dir: WeightsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare models under participant-wise cross-validation. Can be killed and run again."""
    use_weights_directory(weights_dir)
    require_training("compare")
    from mien.core.storage import read_json
    from mien.crossval.compare import plan_comparison, run_comparison
    from mien.evaluation.recommendation import recommend_before
    from mien.training.estimate import estimate_fits
    from mien.training.settings import load_settings

    comparison = plan_comparison(
        dataset,
        target=target,
        models=models,
        out=out,
        folds=parse_folds(folds),
        seed=seed,
        baseline=baseline,
        settings=load_settings(config, epochs=epochs, random_init=random_init),
        overrides=override or (),
        reference=reference,
    )
    if dry_run:
        if comparison.audit.refusals:
            raise RefusedError(comparison.audit.refusal_reasons())
        estimate = estimate_fits(
            comparison.choices,
            dataset=comparison.dataset,
            clips=comparison.clips,
            splits=comparison.splits,
            settings=comparison.settings,
        )
        participants = int(comparison.clips.table["group"].nunique())
        advice = recommend_before(participants, folds=len(comparison.splits))
        show_estimate(estimate | {"recommendation": advice.to_json()}, as_json=as_json)
        return
    try:
        report_path = run_comparison(comparison, command=shlex.join(["mien", *sys.argv[1:]]))
    except RefusedError:
        if as_json:  # a script reads the reasons where it would have read the scores
            print_json(read_json(out / "comparison.json"))
        raise
    result = read_json(out / "comparison.json")
    if as_json:
        print_json(result)
        return
    show_scores(result)
    say(f"Report: {report_path}")


@reported
def train(
    dataset: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    target: TargetOption,
    model: Annotated[str, typer.Option("--model", help="NAME[@BACKBONE][+BASELINE].")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle.")],
    epochs: EpochsOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    override: OverrideOption = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Run whose score of this model the model card quotes.")
    ] = None,
    baseline: BaselineOption = "none",
    random_init: RandomOption = False,
    weights_dir: WeightsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train the final model on all participants and write a bundle, with its ONNX checked against PyTorch."""
    use_weights_directory(weights_dir)
    require_training("train")
    from mien.training.final import plan_training, train_bundle
    from mien.training.settings import load_settings

    settings = load_settings(config, epochs=epochs, random_init=random_init)
    plan = plan_training(
        dataset,
        target=target,
        model=model,
        out=out,
        seed=seed,
        baseline=baseline,
        settings=settings,
        overrides=override or (),
        run=run,
    )
    if dry_run:
        show_estimate(plan.estimate(), as_json=as_json)
        return
    parity = train_bundle(plan)
    if as_json:
        print_json({"bundle": str(out), "parity": parity})
    else:
        say(f"Bundle in {out}; ONNX against PyTorch on {parity['clips']} clips: largest difference "
            f"{parity['max_abs_diff_logit']:.2g} in logits. Next: mien predict {out} VIDEO --out DIR")  # fmt: skip


@reported
def predict(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    videos: Annotated[list[Path], typer.Argument(help="Videos, and folders whose recordings are meant.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for timelines and pages.")],
    elan: Annotated[bool, typer.Option("--elan", help="Also write an .eaf file, to correct it in ELAN.")] = False,
    signals: Annotated[
        list[Path] | None,
        typer.Option("--signals", help="Sensor export of a video, for a model that looks at signals; one per video."),
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Also write an .mp4: the video with sound, and what is predicted under it.")
    ] = False,
    blur: Annotated[bool, typer.Option("--blur", help="Write that .mp4 with all faces covered.")] = False,
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", help="Export, dataset or study: what is annotated, shown beside the prediction."),
    ] = None,
    purpose: Annotated[
        str, typer.Option("--purpose", help="What it is predicted for; some purposes are refused.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Predict a timeline and events for each video: tables and a page. What is done already isn't done again."""
    from mien.predict.predictor import AllFailedError, predict_files

    try:
        results = predict_files(
            bundle,
            videos=videos,
            out=out,
            elan=elan,
            signals=signals or (),
            purpose=purpose,
            video=video,
            blur=blur,
            annotations=annotations,
        )
    except AllFailedError as error:
        if as_json:  # a script reads the reasons where it would have read the results
            print_json(error.results)
        raise
    if as_json:
        print_json(results)
        return
    for item in results:
        if "error" in item:
            continue  # said already
        files = [item[key] for key in ("timeline", "plot", "events", "truth", "elan", "annotated") if item.get(key)]
        say(
            f"{item['video']}: {item['frames']} frames, face found in {item['faces']}, "
            f"{item['abstained']} don't count; " + ", ".join(files)
        )


@reported
def report(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Write the report of a run again."""
    from mien.report.comparison_report import write_comparison_report

    if not (run / "comparison.json").is_file():
        raise UserError(
            f"{run} holds no finished comparison (no comparison.json). Run `mien compare` again; it goes on."
        )
    say(f"Report: {write_comparison_report(run)}")


@reported
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo makes.")] = Path("demo"),
    seed: SeedOption = 0,
) -> None:
    """Run the whole story on a small drawn study: prepare, compare, train, predict. Offline, a few minutes."""
    require_training("demo")
    from mien.demo.run import run_demo

    run_demo(out, seed=seed)


def show_estimate(estimate: dict[str, Any], *, as_json: bool) -> None:
    """Print what a dry run found."""
    if as_json:
        print_json(estimate)
        return
    typer.echo(
        f"Would fit {estimate['fits']} times ({estimate['folds']} folds) on {estimate['clips']} clips of "
        f"{estimate['participants']} participants: at most {estimate['minutes_at_most']:.1f} min here."
    )
    for name, minutes in estimate["minutes_per_model"].items():
        typer.echo(f"  {name}: {minutes:.1f} min")
    if "recommendation" in estimate:
        typer.echo(" ".join([estimate["recommendation"]["text"], *estimate["recommendation"]["reasons"]]))


def show_scores(result: Mapping[str, Any]) -> None:
    """Print the scores of a comparison as a table."""
    from rich.table import Table

    from mien.cli.channel_tables import show_channels
    from mien.cli.tables import table_console
    from mien.core.labels import annotated_by

    def text(score: dict[str, float | None]) -> str:
        if score["mean"] is None:
            return "undefined"
        low, high = score["low"], score["high"]
        return f"{score['mean']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")

    metrics = ("balanced_accuracy", "f1", "auroc")
    mean = ", mean over channels" if len(result.get("averaged_over") or []) > 1 else ""
    title = f"{result.get('title') or result['target']}, {annotated_by(str(result['label_source']))}{mean}"
    table = Table("model", "balanced accuracy", "F1", "AUROC", title=title)
    rows = [(row["label"], row) for row in result["models"]]
    for name, row in [*rows, *_others(result)]:
        table.add_row(name, *(text(row[metric]) for metric in metrics))
    table_console().print(table)
    show_channels(result)
    show_verdict(result)


def _others(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows = [(row["label"], row) for row in result["baselines"].values()]
    return ([("selected", result["selected"])] if result["selected"] else []) + rows


def show_verdict(result: Mapping[str, Any]) -> None:
    """Print what a comparison permits to claim."""
    audit = result["audit"]["checks"]
    counts = {word: sum(check["severity"] == word for check in audit) for word in ("ok", "warn", "fail", "not checked")}
    typer.echo("Audit: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    if result["overrides"]:
        typer.echo(f"Overridden by the user: {', '.join(result['overrides'])}")
    typer.echo(f"{str(result['verdict']).upper()}: {result['permitted_claim'] or 'no claim.'}")
    for reason in result["verdict_reasons"]:
        typer.echo(f"  {reason}")

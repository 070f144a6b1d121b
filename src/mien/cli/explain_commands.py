"""The command about reasons: `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.data_commands import JsonOption, WeightsOption
from mien.cli.errors import print_json, reported, use_weights_directory
from mien.cli.options import SeedOption, require_training
from mien.core.progress import say


@reported
def explain(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video, a picture, or a dataset.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures and explanations.json.")],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="attention, rollout, gradient_attention, grad_cam, hires_cam, occlusion, masking (default: by model).",
        ),
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Number of pictures.")] = 8,
    participants: Annotated[
        int, typer.Option("--participants", min=1, help="Of a dataset: most participants to test the maps on.")
    ] = 20,
    layer: Annotated[int | None, typer.Option("--layer", help="Of the method attention: which layer, from 0.")] = None,
    video: Annotated[bool, typer.Option("--video", help="Also draw the maps on the sampled frames, as MP4.")] = False,
    signals: Annotated[
        Path | None,
        typer.Option("--signals", help="Sensor export, for a model that uses signals."),
    ] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="Of a bundle of several channels: the one to explain.")
    ] = None,
    seed: SeedOption = 0,
    weights_dir: WeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw what a bundle's answers come from, and test whether the maps mean anything. The pictures show faces."""
    use_weights_directory(weights_dir)
    require_training("explain")
    from mien.explain.run import RESULT, ExplainOptions
    from mien.explain.run import explain as explain_bundle

    options = ExplainOptions(
        method=method,
        frames=frames,
        participants=participants,
        layer=layer,
        video=video,
        signals=signals,
        seed=seed,
        channel=channel,
    )
    result = explain_bundle(bundle, source, out=out, options=options)
    if as_json:
        print_json(result)
        return
    show_explanation(result, out=out)
    say(f"{len(result['frames'])} pictures and {RESULT} in {out}. They show faces: keep them like the recording.")


def show_explanation(result: dict[str, Any], *, out: Path) -> None:
    """Print each picture's answer, and what the maps are worth."""
    typer.echo(f"{result['model']}, {result['target']} {result['annotated']}")
    for row in result["frames"]:
        when = "" if row["time_s"] is None else f" at {row['time_s']:.2f} s"
        typer.echo(f"  {out / row['png']}: {row['answer']} {row['probability']:.2f}{when}")
    typer.echo(result["caption"])
    typer.echo(result["sanity"]["verdict"])

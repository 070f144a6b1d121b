"""The command that takes a bundle elsewhere: `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.data_commands import JsonOption
from mien.cli.errors import print_json, reported
from mien.cli.options import require_training
from mien.core.numbers import with_interval
from mien.core.progress import say


@reported
def export(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, FILE.onnx; FILE.parity.json comes beside it.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to int8, and say what it costs.")] = False,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Dataset that the bundle was trained on, where it moved.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a bundle as one ONNX for other targets, compared with the bundle on real clips."""
    require_training("export")
    from mien.export.run import export_bundle

    report = export_bundle(bundle, out=out, int8=int8, dataset=dataset)
    if as_json:
        print_json(report)
        return
    say(f"{out} ({report['bytes'] / 1e6:.1f} MB) takes {report['takes']}.")
    say(f"Largest difference to the bundle on {report['clips']} clips: {report['max_abs_diff_logit']:.2g} in a logit.")
    if "score" in report:
        score = report["score"]
        say(
            f"int8: balanced accuracy {score['int8']:.3f} against {score['float32']:.3f} in float32 "
            f"({score['participants']} participants, {score['people']}), loss {with_interval(score['loss'])}; "
            f"{report['bytes'] / report['bytes_float32']:.0%} of the size, {report['speed']['faster']:.1f} times as "
            "fast here."
        )
        if report["advice"]:
            say(report["advice"])

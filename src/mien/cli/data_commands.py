"""Commands about recordings: `prepare`, `frames`, `inspect`."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.errors import print_json, reported, use_weights_directory
from mien.core.progress import say

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and about how long it takes.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights-dir", help="Folder with pretrained weights (default: MIEN_WEIGHTS).")
]


class LayoutName(StrEnum):
    """How a study's files are named."""

    auto = "auto"
    imotions = "imotions"
    plain = "plain"
    ravdess = "ravdess"


class MediaName(StrEnum):
    """Which recordings of a study are used."""

    auto = "auto"
    camera = "camera"
    screen = "screen"
    all = "all"


class CropName(StrEnum):
    """What is cut out of a frame."""

    face = "face"
    panel = "panel"
    none = "none"


class FaceName(StrEnum):
    """Which face counts where there are several."""

    main = "main"
    left = "left"
    right = "right"


class DetectorName(StrEnum):
    """Face detectors."""

    auto = "auto"
    mtcnn = "mtcnn"
    yunet = "yunet"


@reported
def prepare(
    study: Annotated[Path, typer.Argument(help="Folder of the study.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the dataset.")],
    layout: Annotated[LayoutName, typer.Option("--format", help="How the study's files are named.")] = LayoutName.auto,
    media: Annotated[
        MediaName, typer.Option(help="Recordings to use; auto: per participant the camera, else the screen.")
    ] = MediaName.auto,
    fps: Annotated[float, typer.Option(min=0.001, max=1000, help="Sampled frames per second.")] = 1.0,
    crop: Annotated[CropName, typer.Option(help="What is cut out of a frame.")] = CropName.face,
    face: Annotated[FaceName, typer.Option(help="Which face counts where there are several.")] = FaceName.main,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side of the stored crops, px.")] = 224,
    detector: Annotated[
        DetectorName, typer.Option(help="Face detector; auto: YuNet where its weights are, else MTCNN.")
    ] = DetectorName.auto,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one per core).")] = None,
    weights_dir: WeightsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a study's recordings and annotations into a dataset. Can be killed and run again."""
    use_weights_directory(weights_dir)
    from mien.data.inspect import describe
    from mien.data.prepare import prepare as prepare_dataset
    from mien.data.settings import PrepareConfig

    config = PrepareConfig(
        fps=fps,
        crop=crop.value,
        face=face.value,
        size_px=size,
        media=media.value,
        layout=layout.value,
        detector=detector.value,
        workers=workers,
    )
    if dry_run:
        print_json(dataclasses.asdict(prepare_dataset(study, out=out, config=config, dry_run=True)))
        return
    facts = describe(prepare_dataset(study, out=out, config=config))
    if as_json:
        print_json(facts)
    else:
        show_dataset(facts)
        say(f"Dataset in {out}. Next: mien inspect {out}, mien compare {out} --target TARGET --models ... --out RUN")


@reported
def frames(
    videos: Annotated[list[Path], typer.Argument(help="Video files.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    every: Annotated[int | None, typer.Option(min=1, help="Keep every N-th frame (default 30).")] = None,
    fps: Annotated[float | None, typer.Option(min=0.001, help="Or keep so many frames per second.")] = None,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side of the pictures, px.")] = 224,
    as_json: JsonOption = False,
) -> None:
    """Save frames of videos as numbered JPGs, with their true times in frames.csv."""
    from mien.core.errors import UserError
    from mien.media.frames import extract_frames

    if every is not None and fps is not None:
        raise UserError("Give --every or --fps, not both.")
    paths = extract_frames(videos, out, every=None if fps else (every or 30), fps=fps, size_px=size)
    if as_json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            typer.echo(path)
        say(f"{len(paths)} frames; their times are in {out / 'frames.csv'}.")


@reported
def inspect(
    dataset: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    as_json: JsonOption = False,
) -> None:
    """Say what can be asked of a dataset: participants, minutes, targets with prevalence, faces found, failures."""
    from mien.data.dataset import Dataset
    from mien.data.inspect import describe

    facts = describe(Dataset.open(dataset))
    if as_json:
        print_json(facts)
    else:
        show_dataset(facts)


def show_dataset(facts: dict[str, Any]) -> None:
    """Print what `mien inspect` says, as tables."""
    from rich.table import Table

    from mien.cli.tables import table_console

    console = table_console()
    share = "none" if facts["faces_found"] is None else f"{100 * facts['faces_found']:.1f} %"
    console.print(
        f"{facts['study']['name']}: {facts['participants']} participants, {facts['recordings']} recordings, "
        f"{facts['minutes']:.1f} min, {facts['frames']} sampled frames, "
        f"face found in {share}; labels: {facts['study']['label_source']}",
    )
    targets = Table("target", "kind", "classes", "prevalence", "participants", "with positives", "varies")
    for item in facts["targets"]:
        share = "" if item["prevalence"] is None else f"{item['prevalence']:.3f}"
        targets.add_row(
            item["name"],
            item["kind"],
            "" if item["kind"] == "binary" else ", ".join(item["classes"][:6]),
            share,
            str(item["num_participants"]),
            str(item["num_participants_positive"]),
            "yes" if item["varies"] else "no",
        )
    console.print(targets)
    if facts["failures"]:
        failures = Table("failed", "stage", "reason", "advice")
        for row in facts["failures"]:
            failures.add_row(*(str(row[key]) for key in ("recording", "stage", "reason", "advice")))
        console.print(failures)

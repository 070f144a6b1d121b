"""Commands about recordings: `prepare`, `frames`, `inspect`."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.errors import print_json, reported, use_weights_directory
from mien.core.numbers import short_number
from mien.core.progress import say

if TYPE_CHECKING:
    from rich.console import Console

    from mien.data.dataset import Dataset

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and about how long it takes.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights-dir", help="Folder with pretrained weights (default: MIEN_WEIGHTS).")
]

MAX_CLASSES_SHOWN = 6
MAX_SIGNALS_SHOWN = 12
MAX_FAILURES_SHOWN, MAX_ALIKE_SHOWN = 12, 3
MEDIA_STAGES = ("video", "audio", "process", "find")
"""Where a recording itself was lost, not only some of its annotations."""


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


class SpeechName(StrEnum):
    """What tells speech from other sound."""

    none = "none"
    built_in = "built-in"
    silero = "silero"


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
    speech: Annotated[SpeechName, typer.Option(help="Tell when somebody speaks, as a signal.")] = SpeechName.none,
    signals_hz: Annotated[float, typer.Option(min=0.1, max=1000, help="Values per second of sensor signals.")] = 32.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one per core).")] = None,
    weights_dir: WeightsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a study's recordings and annotations into a dataset. Can be killed and run again."""
    use_weights_directory(weights_dir)
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
        speech=speech.value,
        signals_hz=signals_hz,
        workers=workers,
    )
    if dry_run:
        estimate = prepare_dataset(study, out=out, config=config, dry_run=True)
        if as_json:
            print_json(dataclasses.asdict(estimate))
            return
        time_text = "" if estimate.seconds is None else f", about {estimate.seconds / 60:.1f} min here"
        typer.echo(
            f"Would prepare {estimate.num_recordings} recordings ({estimate.minutes:.1f} min of video, "
            f"{estimate.num_samples} samples){time_text}, {estimate.disk_bytes / 1e6:.0f} MB; "
            f"{estimate.num_unreadable} recordings can't be opened."
        )
        return
    facts = _described(prepare_dataset(study, out=out, config=config))
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
    if (out / "failures.csv").is_file():
        say(f"Not everything could be read: see {out / 'failures.csv'}.")


@reported
def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Folder of a dataset; or media files, exports, folders of them.")],
    measure: Annotated[
        bool, typer.Option("--measure", help="Decode media files, and say what they really hold and when.")
    ] = False,
    ids: Annotated[
        bool, typer.Option("--ids", help="Of a study with hash_ids: say which pseudonym stands for whom.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what can be asked of a dataset: participants, minutes, targets with prevalence, faces found, failures.

    Given media files or exports of other tools instead, say what each holds.
    """
    from mien.data.dataset import INFO_FILE, Dataset

    folder = paths[0]
    if ids:
        _inspect_ids(paths, as_json=as_json)
        return
    is_dataset = len(paths) == 1 and ((folder / INFO_FILE).is_file() or (folder / "recordings").is_dir())
    if not is_dataset:
        _inspect_files(paths, measure=measure, as_json=as_json)
        return
    facts = _described(Dataset.open(folder))
    if as_json:
        print_json(facts)
    else:
        show_dataset(facts)


def _inspect_ids(paths: list[Path], *, as_json: bool) -> None:
    from mien.core.errors import UserError
    from mien.data.study import pseudonyms_of

    if len(paths) > 1:
        raise UserError(f"--ids is of one study, got {len(paths)} paths. Name the study's folder.")
    people = pseudonyms_of(paths[0])
    if as_json:
        print_json(dict(people))
        return
    for name, pseudonym in people.items():
        typer.echo(f"{pseudonym}  {name}")


def _inspect_files(paths: list[Path], *, measure: bool, as_json: bool) -> None:
    from mien.data.inspect_files import describe_files

    rows = describe_files(paths, measure=measure)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['file']}: {row['format'] or 'not read'}")
        for line in row["found"]:
            typer.echo(f"  {line}")
        for line in row["problems"]:
            typer.echo(f"  ! {line}")


def _described(dataset: Dataset) -> dict[str, Any]:
    """Describe a dataset; each target has `coders`: how far several agree, None where there is one."""
    from mien.core.storage import to_jsonable
    from mien.data.inspect import describe
    from mien.data.votes import coder_names

    facts = describe(dataset)
    found = {}
    if len(coder_names(dataset.annotations, dataset.coded)) > 1:
        from mien.evaluation.ceiling import coders_by_target

        found = to_jsonable(coders_by_target(dataset.tables()))
    for target in facts["targets"]:
        target["coders"] = found.get(target["name"])
    return facts


def show_dataset(facts: dict[str, Any]) -> None:
    """Print what `mien inspect` says, as tables."""
    from mien.cli.tables import table_console

    console = table_console()
    faces = "no picture" if facts["faces_found"] is None else f"face found in {100 * facts['faces_found']:.1f} %"
    console.print(
        f"{facts['study']['name']}: {facts['participants']} participants, {facts['recordings']} recordings, "
        f"{facts['minutes']:.1f} min, {facts['frames']} sampled frames, "
        f"{faces}; labels: {facts['study']['label_source']}",
    )
    _show_targets(console, facts)
    if facts["signals"]:
        named = [f"{name} ({unit})" if unit else name for name, unit in facts["signals"].items()]
        more = f", and {len(named) - MAX_SIGNALS_SHOWN} more" if len(named) > MAX_SIGNALS_SHOWN else ""
        console.print(f"signals: {', '.join(named[:MAX_SIGNALS_SHOWN])}{more}")
    if facts["failures"]:
        _show_failures(console, facts["failures"])


def _show_targets(console: Console, facts: dict[str, Any]) -> None:
    from rich.table import Table

    from mien.data.targets import NUMBERS

    headers = ["target", "kind", "classes", "prevalence", "participants", "positives or rarest class in", "varies"]
    several = any(item.get("coders") for item in facts["targets"])
    targets = Table(*headers, *(["coders (alpha)"] if several else []))
    for item in facts["targets"]:
        # Without a frame there is nothing that a share of frames could be of.
        unknown = item["prevalence"] is None or not facts["frames"]
        targets.add_row(
            item["name"],
            item["kind"],
            _classes_text(item),
            "" if unknown else f"{item['prevalence']:.3f}",
            str(item["num_participants"]),
            str(item["num_participants_positive"]),
            "yes" if item["varies"] else "no",
            *([_coders_text(item.get("coders"))] if several else []),
        )
    console.print(targets)
    numbers = [item["name"] for item in facts["unusable_targets"] if NUMBERS in item["reason"]]
    for item in facts["unusable_targets"]:
        if item["name"] not in numbers:
            console.print(f"can't be a target: {item['name']}: {item['reason']}")
    if numbers:
        console.print("not a category: " + ", ".join(f"{name} (numbers)" for name in numbers))


def _coders_text(coders: dict[str, Any] | None) -> str:
    """Return the number of a target's coders and their alpha, "unknown" where no two coded the same time."""
    if not coders:
        return ""
    alpha = coders["alpha"]["value"]
    return f"{len(coders['annotators'])} ({'unknown' if alpha is None else short_number(alpha)})"


def _classes_text(target: dict[str, Any]) -> str:
    """Return classes (of two, the one that prevalence refers to, unless that is the target), or a number's range."""
    classes = target["classes"]
    if target["kind"] == "continuous":
        return "" if target["low"] is None else f"{target['low']:.3g} to {target['high']:.3g}"
    if target["kind"] != "binary":
        return ", ".join(classes[:MAX_CLASSES_SHOWN]) + (", ..." if len(classes) > MAX_CLASSES_SHOWN else "")
    if len(classes) < 2:
        return ", ".join(classes)
    return "" if classes[1] == target["name"] else f"positive: {classes[1]}"


def _show_failures(console: Console, rows: list[dict[str, str]]) -> None:
    """Print what failed, recordings that can't be read first; of many rows, the first few of each kind."""
    from rich.table import Table

    rows = sorted(rows, key=lambda row: MEDIA_STAGES.index(row["stage"]) if row["stage"] in MEDIA_STAGES else 9)
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["stage"], row["advice"] or row["reason"]), []).append(row)
    failures = Table("failed", "stage", "reason", "advice")
    for same in groups.values():
        # A line that says "1 more" takes as much room as the row that it replaces.
        all_fit = len(rows) <= MAX_FAILURES_SHOWN or len(same) <= MAX_ALIKE_SHOWN + 1
        for row in same if all_fit else same[:MAX_ALIKE_SHOWN]:
            failures.add_row(*(str(row[key]) for key in ("recording", "stage", "reason", "advice")))
        if not all_fit:
            more = f"... and {len(same) - MAX_ALIKE_SHOWN} more like it; all are in failures.csv"
            failures.add_row("...", same[0]["stage"], more, "")
    console.print(failures)

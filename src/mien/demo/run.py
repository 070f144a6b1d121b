"""`mien demo`: the whole story on a study that it draws itself, offline: prepare, compare, train, predict."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mien.core.errors import UserError
from mien.core.progress import progress, say
from mien.core.storage import atomic_directory, atomic_path, digest_of, read_json, write_json
from mien.crossval.compare import plan_comparison, run_comparison
from mien.data.dataset import FORMAT
from mien.data.prepare import prepare
from mien.data.settings import PrepareConfig
from mien.demo.study import STUDY_NAME, write_demo_study
from mien.evaluation.calibration import MIN_PARTICIPANTS
from mien.predict.predictor import predict_files
from mien.training.config import TrainConfig
from mien.training.final import plan_training, train_bundle
from mien.training.settings import FitSettings

TARGET = "Smile"
MODELS = ("improved_cnn+recording", "vit_scratch+recording", "linear_probe@hog", "linear_probe@hog+recording")
BUNDLE_MODEL = "linear_probe@hog+recording"
PARTICIPANTS = 12
DURATION_S = 20.0
FPS = 5.0
"""The least at which events are made."""
FOLDS = 3
PARTS = ("study", "newcomer", "dataset", "run", "bundle", "predictions", "report.html")
"""What the demo makes in its folder."""
STAMP = "demo.json"
"""Beside them: which version made them, with which settings."""
# Small pictures and few epochs: the demo shows the way within minutes, it doesn't seek the best score.
SETTINGS = FitSettings(training=TrainConfig(image_size=48, epochs=8, batch_size=32, patience=6))


@dataclass(frozen=True)
class Story:
    """Where the demo's artefacts lie."""

    root: Path

    @property
    def study(self) -> Path:
        """The drawn study."""
        return self.root / "study"

    @property
    def newcomer(self) -> Path:
        """A video of one more drawn person, whom no model has seen."""
        return self.root / "newcomer" / "video.mp4"

    @property
    def dataset(self) -> Path:
        """What `prepare` makes."""
        return self.root / "dataset"

    @property
    def run(self) -> Path:
        """What `compare` makes."""
        return self.root / "run"

    @property
    def bundle(self) -> Path:
        """What `train` makes."""
        return self.root / "bundle"

    @property
    def predictions(self) -> Path:
        """What `predict` makes."""
        return self.root / "predictions"


def run_demo(out: Path, *, seed: int = 0) -> Path:
    """Run the whole story.

    Args:
        out: Folder for everything; what an earlier demo drew, prepared and fitted there isn't done again.
        seed: Seed of the study and of the models.

    Returns:
        Path of `report.html`.

    Raises:
        UserError: The folder holds what no demo made.
    """
    started = time.monotonic()
    story = Story(out)
    _check_folder(out)
    _clear_outdated(story, made_by=_fingerprint(seed))
    _draw(story.study, participants=PARTICIPANTS, seed=seed)
    _draw_newcomer(story.newcomer, seed=seed + 1)
    say(f"$ mien prepare {story.study} --out {story.dataset} --fps {FPS:g}")
    prepare(story.study, out=story.dataset, config=PrepareConfig(fps=FPS))
    command = (
        f"mien compare {story.dataset} --target {TARGET} --models {','.join(MODELS)} --folds {FOLDS} --out {story.run}"
    )
    say(f"$ {command}")
    comparison = plan_comparison(
        story.dataset, target=TARGET, models=MODELS, out=story.run, folds=FOLDS, seed=seed, settings=SETTINGS
    )
    report = run_comparison(comparison, command=f"{command} (settings of the demo: {SETTINGS.training.image_size} px)")
    say(f"$ mien train {story.dataset} --target {TARGET} --model {BUNDLE_MODEL} --run {story.run} --out {story.bundle}")
    train_bundle(
        plan_training(
            story.dataset,
            target=TARGET,
            model=BUNDLE_MODEL,
            out=story.bundle,
            seed=seed,
            settings=SETTINGS,
            run=story.run,
        )
    )
    say(
        f"A fifth of the {PARTICIPANTS} people is held back for what is chosen beside the weights: enough to see how "
        "events are cut out, too few to calibrate probabilities or to promise 90 % of the events' edges. That takes "
        f"{MIN_PARTICIPANTS} such people, about 50 in all."
    )
    say(f"$ mien predict {story.bundle} {story.newcomer} --out {story.predictions}")
    results = predict_files(story.bundle, videos=[story.newcomer], out=story.predictions)
    shutil.copyfile(report, out / "report.html")
    _tell(story, timeline=results[0]["plot"], seconds=time.monotonic() - started)
    return out / "report.html"


def _fingerprint(seed: int) -> dict[str, str]:
    """Return what decides the artefacts: a demo that was made otherwise isn't gone on with."""
    parts = (PARTICIPANTS, DURATION_S, FPS, FOLDS, MODELS, BUNDLE_MODEL, SETTINGS.to_json(), seed, FORMAT)
    return {"mien": version("mien"), "settings": digest_of(list(parts))}


def _clear_outdated(story: Story, *, made_by: dict[str, str]) -> None:
    """Remove what another version of the demo left in the folder, and nothing that no demo made."""
    there = [story.root / name for name in PARTS if (story.root / name).exists()]
    stamp = story.root / STAMP
    if there and not (stamp.is_file() and read_json(stamp) == made_by):
        description = story.study / "study.yaml"
        if not (description.is_file() and f"name: {STUDY_NAME}" in description.read_text(encoding="utf-8")):
            raise UserError(
                f"{story.root} holds {', '.join(path.name for path in there[:3])}, but not the study that the demo "
                "draws. Give another --out."
            )
        say(f"{story.root} holds a demo of another version or with other settings; it is made again.")
        for path in there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(stamp, made_by)


def _check_folder(out: Path) -> None:
    known = {*PARTS, STAMP}
    strange = sorted(path.name for path in out.iterdir() if path.name not in known) if out.is_dir() else []
    visible = [name for name in strange if not name.startswith(".")]
    if visible:
        raise UserError(f"{out} holds other things ({', '.join(visible[:3])}). Give another --out.")


def _draw(folder: Path, *, participants: int, seed: int) -> None:
    if folder.is_dir():
        return
    with progress("Drawing people", total=participants + 1) as advance, atomic_directory(folder) as temporary:
        report: Callable[[str], None] = advance
        write_demo_study(temporary, participants=participants, duration_s=DURATION_S, seed=seed, on_recording=report)


def _draw_newcomer(video: Path, *, seed: int) -> None:
    if video.is_file():
        return
    with tempfile.TemporaryDirectory() as folder, atomic_path(video) as temporary:
        study = write_demo_study(Path(folder) / "study", participants=1, duration_s=DURATION_S, seed=seed)
        # The study also holds a recording that doesn't open; it is the small one.
        recordings = (study / "Analysis" / "Respondent Cameras").glob("*.mp4")
        shutil.copyfile(max(recordings, key=lambda path: path.stat().st_size), temporary)


def _tell(story: Story, *, timeline: str, seconds: float) -> None:
    result = read_json(story.run / "comparison.json")
    for model in result["models"]:
        score = model["balanced_accuracy"]
        interval = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
        say(f"  {model['label']:32s} {score['mean']:.3f}{interval} balanced accuracy")
    say(f"Done in {seconds / 60:.1f} min. Every face was drawn: the scores show the way, not what holds for people.")
    say(f"Report:    {story.root / 'report.html'}")
    say(f"Bundle:    {story.bundle}")
    say(f"Timeline:  {timeline}")

"""`mien explain`: maps of a bundle on an input, with their sanity scores, as PNGs and `explanations.json`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import annotated_by
from mien.core.progress import progress
from mien.core.storage import atomic_directory, check_output_folder, remove_leftovers, write_json
from mien.explain.annotated_video import write_annotated_video
from mien.explain.drawing import Shown, heading, picture_name, write_picture
from mien.explain.frames import ExplainedFrame, Subject, answers_of, directions, most_confident, with_references
from mien.explain.inputs import Answers, InputKind, dataset_frames, kind_of, picture_answers, video_answers
from mien.explain.methods import choose_method, family_of, make_maps
from mien.explain.perturbation import Gains, perturbation_gains
from mien.explain.sanity import NUM_RANDOMISED, Agreement, Sanity, agreement, judge
from mien.explain.stretch_inputs import dataset_stretches, recording_stretch
from mien.explain.stretches import METHOD, explain_stretches
from mien.explain.subjects import (
    BundleSubject,
    NetworkBuilder,
    RandomisedProbe,
    check_same_answers,
    is_probe,
    open_bundle,
)
from mien.runtime.bundle import Bundle

RESULT = "explanations.json"
ANNOTATED = "explained.mp4"


@dataclass(frozen=True)
class ExplainOptions:
    """What is asked of an explanation.

    Attributes:
        method: Name of the method; None for the default of the model.
        frames: Number of pictures.
        participants: Most participants of a dataset that the sanity scores are over.
        layer: Layer of the method `attention`; None for the last.
        video: Whether to draw the maps on the video, too.
        signals: Sensor export of the recording, for a model that looks at signals.
        seed: Of the randomised models, the random maps, and the draw of participants.
        channel: Of a bundle of several channels, the one whose answers are explained.

    Raises:
        UserError: No frame or no participant.
    """

    method: str | None = None
    frames: int = 8
    participants: int = 20
    layer: int | None = None
    video: bool = False
    signals: Path | None = None
    seed: int = 0
    channel: str | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.participants < 1:
            raise UserError(f"Give at least 1 frame and 1 participant, got {self.frames} and {self.participants}.")


@dataclass(frozen=True)
class Explained:
    """Maps with their scores.

    Attributes:
        frames: All frames that were explained.
        maps: (N, g, g) their maps.
        sanity: The scores of the maps.
        empty: (N,) whose map is the same everywhere.
    """

    frames: list[ExplainedFrame]
    maps: NDArray[np.float64]
    sanity: Sanity
    empty: NDArray[np.bool_]


class Explainer:
    """A bundle with the method by which it is explained.

    Attributes:
        bundle: The bundle.
        method: The method.
        subject: What maps are made of: the network in PyTorch, or the bundle itself.
    """

    def __init__(self, bundle: Bundle, *, options: ExplainOptions) -> None:
        self.bundle = bundle
        self._options = options
        self._builder = None if is_probe(bundle) else NetworkBuilder.of(bundle)
        network = None if self._builder is None else self._builder.trained()
        self.method = choose_method(options.method, family=family_of(network), model=bundle.spec.label)
        self._network = network
        self.subject: Subject = BundleSubject(bundle)
        if network is not None and self.method.name != "occlusion":
            self.subject = network

    def check(self, frames: Sequence[ExplainedFrame]) -> float | None:
        """Compare the rebuilt network with the bundle; the largest difference of a logit, None for a probe."""
        return None if self._network is None else check_same_answers(self._network, frames=frames, bundle=self.bundle)

    def maps(self, frames: Sequence[ExplainedFrame], *, subject: Subject | None = None) -> NDArray[np.float64]:
        """Return maps (N, g, g) of frames."""
        scheme, layer = self.bundle.spec.labels, self._options.layer
        return make_maps(self.method, subject or self.subject, frames, scheme=scheme, layer=layer)

    def explain(self, frames: list[ExplainedFrame], *, by_participant: bool) -> Explained:
        """Return maps with their sanity scores."""
        directions(
            answers_of(frames), scheme=self.bundle.spec.labels
        )  # a target that can't be explained is told at once
        with progress("Explaining", total=1 + NUM_RANDOMISED + len(frames)) as advance:
            maps = self.maps(frames)
            advance("maps")
            found = self.agreement(frames, maps=maps, step=lambda: advance("randomised weights"))
            gains = self._gains(frames, maps=maps, step=lambda: advance("deletion and insertion"))
        sanity = judge(
            gains,
            frames=frames,
            found=found,
            randomised="all weights" if self._builder else "the probe's coefficients (its encoder is frozen)",
            over="participants" if by_participant else "frames",
            class_specific=self.method.class_specific,
        )
        return Explained(frames, maps, sanity, empty=found.empty)

    def agreement(
        self, frames: Sequence[ExplainedFrame], *, maps: NDArray[np.float64], step: Callable[[], None] = lambda: None
    ) -> Agreement:
        """Compare maps with those of the same model with randomised weights; `step` is called after each model."""
        randomised = []
        for number in range(NUM_RANDOMISED):
            randomised.append(self._randomised_maps(frames, number=number))
            step()
        return agreement(maps, randomised=randomised)

    def _randomised_maps(self, frames: Sequence[ExplainedFrame], *, number: int) -> NDArray[np.float64]:
        # Not the seed of the fit: weights that training started from are no stranger to those it ended with.
        seed = 1_000_003 * (self._options.seed + 1) + number
        subject: Subject = (
            RandomisedProbe(self.bundle, seed=seed) if self._builder is None else self._builder.randomised(seed=seed)
        )
        own = with_references(frames, subject=subject, baseline=self.bundle.baseline)
        return self.maps(own, subject=subject)

    def _gains(self, frames: Sequence[ExplainedFrame], *, maps: NDArray[np.float64], step: Callable[[], None]) -> Gains:
        parts = []
        for number, frame in enumerate(frames):
            seed = self._options.seed + number
            parts.append(
                perturbation_gains(
                    BundleSubject(self.bundle),
                    [frame],
                    maps=maps[number : number + 1],
                    scheme=self.bundle.spec.labels,
                    seed=seed,
                )
            )
            step()
        names = [field.name for field in dataclasses.fields(Gains)]
        return Gains(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def explain(bundle_path: Path, source: Path, *, out: Path, options: ExplainOptions | None = None) -> dict[str, Any]:
    """Explain a bundle on a video, a picture or a dataset.

    Args:
        bundle_path: Folder of the bundle.
        source: A video, a picture, or a dataset, whose sanity scores are over participants.
        out: Folder for the pictures; replaced where it holds an explanation.
        options: What is asked.

    Returns:
        What `explanations.json` holds.

    Raises:
        UserError: Anything that came wrong: bundle, input, method, folder.
    """
    options = options or ExplainOptions()
    check_output_folder(out, marker=RESULT, what="explanation")
    bundle = open_bundle(bundle_path, channel=options.channel)
    kind = kind_of(source)
    if options.video and kind != "video":
        raise UserError(f"--video draws on a video; {source} is a {kind}. Leave it out.")
    if bundle.spec.windows is not None:
        return _explain_stretches(bundle, source, kind=kind, out=out, options=options)
    if options.signals is not None:
        raise UserError(f"{bundle.spec.label} looks at no signals. Leave --signals out.")
    if not bundle.needs_pictures:
        raise UserError(
            f"{bundle.spec.label} is a linear probe on sound: it has neither pictures nor windows of which a part "
            "could be masked. Explain audio_wavenet or multimodal_fusion on the same recordings."
        )
    explainer = Explainer(bundle, options=options)
    with _opened(bundle, source, kind=kind, options=options) as (answers, frames):
        gap = explainer.check(frames)
        explained = explainer.explain(frames, by_participant=kind == "dataset")
        remove_leftovers(out.parent, of=out.name)
        with atomic_directory(out) as folder:
            rows = _write_pictures(folder, explained, explainer=explainer, count=options.frames)
            result = _result(explained, explainer=explainer, rows=rows, source=source, kind=kind, gap=gap)
            if options.video:
                assert answers is not None, "a video has its answers"
                write_annotated_video(
                    folder / ANNOTATED,
                    video=source,
                    answers=answers,
                    bundle=bundle,
                    subject=explainer.subject,
                    method=explainer.method,
                    layer=options.layer,
                    footer=(result["caption"], explained.sanity.short_verdict()),
                )
                result["video"] = ANNOTATED
            write_json(folder / RESULT, result)
    return result


def _explain_stretches(
    bundle: Bundle, source: Path, *, kind: InputKind, out: Path, options: ExplainOptions
) -> dict[str, Any]:
    """Explain a model of stretches of time, by masking."""
    if options.method not in (None, METHOD) or options.video or options.layer is not None:
        raise UserError(
            f"{bundle.spec.label} looks at stretches of time, which have no map to draw. Allowed: --method {METHOD} "
            "(the default), without --video and --layer."
        )
    if kind == "picture":
        raise UserError(
            f"{bundle.spec.label} looks at stretches of time; {source} is a picture. Give a recording or a dataset."
        )
    if kind == "dataset":
        if options.signals is not None:
            raise UserError(f"{source} is a dataset, which has its signals. Leave --signals out.")
        stretches = dataset_stretches(bundle, source, participants=options.participants, seed=options.seed)
    else:
        stretches = [recording_stretch(bundle, source, count=options.frames, signals=options.signals)]
    remove_leftovers(out.parent, of=out.name)
    with atomic_directory(out) as folder:
        found = explain_stretches(
            bundle, stretches, folder=folder, count=options.frames, by_participant=kind == "dataset"
        )
        result = _facts(bundle, source=source, kind=kind) | found
        write_json(folder / RESULT, result)
    return result


def _facts(bundle: Bundle, *, source: Path, kind: InputKind) -> dict[str, Any]:
    scheme = bundle.spec.labels
    return {
        "bundle": str(bundle.path),
        "model": bundle.spec.label,
        "target": scheme.target,
        "annotated": annotated_by(scheme.label_source),
        "input": str(source),
        "input_kind": kind,
        "video": None,
    }


@contextlib.contextmanager
def _opened(
    bundle: Bundle, source: Path, *, kind: InputKind, options: ExplainOptions
) -> Iterator[tuple[Answers | None, list[ExplainedFrame]]]:
    """Yield the frames to explain, by recording and time, and a single recording's answers."""
    if kind == "dataset":
        yield None, dataset_frames(bundle, source, participants=options.participants, seed=options.seed)
        return
    with contextlib.ExitStack() as stack:
        if kind == "picture":
            answers = picture_answers(bundle, source)
        else:
            answers = stack.enter_context(video_answers(bundle, source))
        rows = answers.confident_rows(bundle=bundle, count=options.frames)
        yield answers, [answers.frame(int(row), bundle=bundle, has_time=kind == "video") for row in rows]


def _write_pictures(folder: Path, explained: Explained, *, explainer: Explainer, count: int) -> list[dict[str, Any]]:
    """Write a PNG of the most confident frames; their rows of `explanations.json`."""
    scheme = explainer.bundle.spec.labels
    answers = answers_of(explained.frames)
    probabilities = np.array([frame.probability for frame in explained.frames])
    annotated = f"{scheme.target}, expression {annotated_by(scheme.label_source)}; {explainer.bundle.spec.label}"
    rows = []
    for number in most_confident(answers, probabilities, count=count):
        frame, empty = explained.frames[number], bool(explained.empty[number])
        answer = scheme.classes[frame.answer]
        name = picture_name(frame.recording_id, row=frame.row, time_s=frame.time_s)
        title = heading(answer=answer, probability=frame.probability, time_s=frame.time_s, empty=empty)
        shown = Shown(title, explainer.method.caption(answer), f"{explained.sanity.short_verdict()}\n{annotated}")
        write_picture(
            folder / name, pixels=frame.pixels, values=explained.maps[number], method=explainer.method, shown=shown
        )
        rows.append(
            {
                "recording": frame.recording_id,
                "time_s": frame.time_s,
                "answer": answer,
                "probability": frame.probability,
                "png": name,
                "empty": empty,
            }
        )
    return rows


def _result(
    explained: Explained,
    *,
    explainer: Explainer,
    rows: list[dict[str, Any]],
    source: Path,
    kind: InputKind,
    gap: float | None,
) -> dict[str, Any]:
    bundle, method = explainer.bundle, explainer.method
    trained_on = set(bundle.spec.provenance.get("participants", ()))
    people = {frame.participant_id for frame in explained.frames} if kind == "dataset" else set()
    return _facts(bundle, source=source, kind=kind) | {
        "method": method.name,
        "class_specific": method.class_specific,
        "caption": method.caption(),
        "frames": rows,
        "sanity": explained.sanity.to_json() | {"frames": len(explained.frames)},
        # The scores say whether maps follow the model, on whomever; that it knows these people is told all the same.
        "participants_of_the_training": len(people & trained_on) if kind == "dataset" else None,
        "max_abs_diff_logit": gap,
    }

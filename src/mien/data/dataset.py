"""A dataset as `prepare` wrote it: tables at once, pictures and sound memory-mapped where they are asked for."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError, unknown_name
from mien.core.storage import read_json
from mien.core.types import Audio, CropKind, FaceChoice, FaceTrack
from mien.data.layouts import CODED_COLUMNS, SEGMENT_COLUMNS, empty_table
from mien.data.pictures import BOX_COLUMNS, tracks_of
from mien.data.pseudonyms import is_pseudonym
from mien.data.ratings import ToolRatings, tool_channels
from mien.data.signals import read_signals
from mien.data.targets import TargetSummary, TargetTables, summarise_targets, unusable_targets
from mien.media.faces import median_panel
from mien.media.signals import SignalTable

_BLOCK_SAMPLES = 1 << 16

FORMAT = 2
"""Version of the files' layout; another one is refused."""

INFO_FILE = "dataset.json"

NOT_STATED = "not stated"
TOLD_IN_DATASET = "what happened stands in the dataset's failures.csv, which names files"

RECORDING_COLUMNS = {
    "recording_id": "object",
    "participant_id": "object",
    "group": "object",
    "session": "object",
    "camera": "object",
    "media": "object",
    "sha256": "object",
    "duration_s": "float64",
    "duration_declared_s": "float64",
    "fps_declared": "float64",
    "fps_measured": "float64",
    "width": "Int64",
    "height": "Int64",
    "codec": "object",
    "num_frames": "int64",
    "num_faces": "int64",
    "audio_start_s": "float64",
    "audio_rate_hz": "Int64",
}
"""Columns of `recordings.parquet` with their types; the study's attributes follow."""


def sample_ends(pts_s: NDArray[np.float64], *, fps: float) -> NDArray[np.float64]:
    """Return when samples end (N,), s: where the next one starts, at most one sampling interval later.

    >>> sample_ends(np.array([0.0, 0.4, 2.0]), fps=1.0).tolist()
    [0.4, 1.4, 3.0]
    """
    return np.asarray(np.minimum(np.append(pts_s[1:], np.inf)[: len(pts_s)], pts_s + 1.0 / fps))


def num_moments(duration_s: float, *, fps: float) -> int:
    """Return at how many moments a sound of so many seconds is asked about, 1 / `fps` s apart, the first at its start.

    >>> num_moments(3.3, fps=1.0), num_moments(3.0, fps=2.0), num_moments(0.1, fps=1.0)
    (4, 6, 1)
    """
    # A sound that ends a rounding error behind a moment has no moment there.
    return max(1, math.ceil(round(duration_s * fps, 6)))


def _varies(samples: NDArray[np.int16]) -> bool:
    """Return whether any sample differs from the first; blocks, so that an hour isn't read to know it."""
    blocks = range(0, len(samples), _BLOCK_SAMPLES)
    return any(bool((samples[start : start + _BLOCK_SAMPLES] != samples[0]).any()) for start in blocks)


class Dataset:
    """A prepared study.

    Args:
        path: Its folder.
        info: What its `dataset.json` says.

    Attributes:
        path: Its folder.
        info: What its `dataset.json` says.
    """

    def __init__(self, path: Path, *, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open a dataset; only `dataset.json` is read.

        Raises:
            UserError: There is no finished dataset, or one of another format.
        """
        path = Path(path)
        if not (path / INFO_FILE).is_file():
            unfinished = (path / "recordings").is_dir()
            what = "isn't finished: run the same `mien prepare` again" if unfinished else "isn't a dataset"
            raise UserError(f"{path} {what}. `mien prepare STUDY --out {path}` makes one.")
        info = read_json(path / INFO_FILE)
        if info.get("format") != FORMAT:
            raise UserError(
                f"{path} has the format {info.get('format')!r}, this mien ({FORMAT=}) can't read it. "
                "Prepare the study again into another folder."
            )
        return cls(path, info=info)

    @property
    def margin(self) -> float | None:
        """Side of the crops over the face box's longer side; None where a crop is the whole picture or panel."""
        return float(self.info["config"]["margin"]) if self.crop == "face" else None

    @property
    def size_px(self) -> int:
        """Side of the crops."""
        return int(self.info["config"]["size_px"])

    @property
    def fps(self) -> float:
        """Samples per second."""
        return float(self.info["config"]["fps"])

    @property
    def crop(self) -> CropKind:
        """What the crops show: `face`, `panel` or `none`."""
        kind: CropKind = self.info["config"]["crop"]
        return kind

    @property
    def face(self) -> FaceChoice:
        """Which face is the participant's, where a picture shows several."""
        choice: FaceChoice = self.info["config"]["face"]
        return choice

    @property
    def detector(self) -> str:
        """Name of the face detector."""
        return str(self.info["config"]["detector"])

    @property
    def study_facts(self) -> dict[str, str]:
        """What the study says of itself: name, layout, label_source, purpose, consent, licence, unit, annotator.

        `ids_key` is the fingerprint of the key of its hashed ids, empty where they are the study's own.
        """
        return dict(self.info["study"])

    @property
    def data_facts(self) -> dict[str, str]:
        """What everything that is made of the dataset says of the data: name, licence, consent, purpose."""
        return {
            name: self.study_facts.get(name, "") or NOT_STATED for name in ("name", "licence", "consent", "purpose")
        }

    @property
    def label_source(self) -> str:
        """Who annotated, as the study says of itself; a scheme of a tool's export names the tool (`TargetTables`)."""
        return str(self.info["study"]["label_source"])

    @property
    def annotator(self) -> str:
        """The coder whose labels are the target, where the study names one; else empty: what most coders say."""
        return str(self.info["study"].get("annotator", ""))

    @property
    def content_hash(self) -> str:
        """Digest of media, settings and annotations: the same content has the same one on every machine."""
        return str(self.info["content_hash"])

    @property
    def is_synthetic(self) -> bool:
        """Whether labels (and usually people) are made, so that no result says anything of real people."""
        return self.label_source == "synthetic"

    @property
    def attributes(self) -> tuple[str, ...]:
        """Columns of `recordings` that the study gave, such as gender."""
        return tuple(self.info["attributes"])

    @cached_property
    def recordings(self) -> pd.DataFrame:
        """`RECORDING_COLUMNS` and the attributes, one row per recording, sorted by id."""
        return self._read("recordings")

    @cached_property
    def annotations(self) -> pd.DataFrame:
        """Columns recording_id, onset_s, offset_s, scheme, value, annotator, source, confidence."""
        return self._read("annotations")

    @cached_property
    def coded(self) -> pd.DataFrame:
        """What was looked at (recording_id, from_s, to_s, annotator, label); empty where the study doesn't say."""
        return self._read("coded") if (self.path / "coded.parquet").is_file() else empty_table(CODED_COLUMNS)

    @cached_property
    def segments(self) -> pd.DataFrame:
        """Questions and tasks (recording_id, onset_s, offset_s, segment, stimulus); empty where there are none."""
        return self._read("segments") if (self.path / "segments.parquet").is_file() else empty_table(SEGMENT_COLUMNS)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """What was left out: recording, stage, reason, advice."""
        return pd.read_csv(self.path / "failures.csv", dtype=str, keep_default_na=False)

    @cached_property
    def failures_told(self) -> pd.DataFrame:
        """`failures` as it may leave the lab: of a study with hashed ids without the texts, which name files."""
        if not self.study_facts.get("ids_key"):
            return self.failures
        known = self.failures["recording"].map(is_pseudonym)
        recording = self.failures["recording"].where(known, "not under a pseudonym")
        return self.failures.assign(recording=recording, reason=TOLD_IN_DATASET, advice="")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """All sampled frames: recording_id, frame (row in the crops), pts_s, end_s, face_found.

        A sample lasts until the next one, at most one sampling interval (s). A recording without a picture has moments
        instead, see `frames`.
        """
        parts = [self._samples_of(str(recording_id)) for recording_id in self.recordings["recording_id"]]
        return pd.concat(parts, ignore_index=True)

    def frames(self, recording_id: str) -> pd.DataFrame:
        """Return the sampled frames, a row each, with the participant's face where it is seen, else NaN.

        Columns: frame, pts_s, face_found; score, box x0 to y1 and landmarks l0x to l4y (px); track, the participant's
        number in `tracks` (-1 where the face isn't seen); and how well the face can be seen (`mien.media.quality`):
        sharpness (variance of the Laplacian at 112 px), face_px (longer side of the box), yaw_proxy, pitch_proxy,
        roll_deg (from the landmarks), brightness (mean luma of the face, 0..255).

        A recording of sound alone has a moment every 1 / `fps` s from the start of its sound, and a face in none.
        """
        frames = pd.read_parquet(self._folder(recording_id) / "frames.parquet")
        return frames if self.has_pictures(recording_id) else self._moments(recording_id, like=frames)

    def tracks(self, recording_id: str) -> tuple[FaceTrack, ...]:
        """Return everyone whose face was seen in a recording, the participant among them; empty without a picture."""
        path = self._folder(recording_id) / "tracks.parquet"
        return tracks_of(pd.read_parquet(path)) if path.is_file() else ()

    def panel_box(self, recording_id: str) -> NDArray[np.float32] | None:
        """Return the box (4,) that all crops of a recording are cut around, px; None where they follow the face.

        Raises:
            UserError: An unknown recording.
        """
        if self.crop != "panel":
            return None
        stored = read_json(self._folder(recording_id) / "recording.json").get("panel_box_xyxy")
        if stored is not None:
            return np.asarray(stored, np.float32)
        boxes = self.frames(recording_id)[list(BOX_COLUMNS)].to_numpy(np.float32)
        return median_panel(boxes) if np.isfinite(boxes).any() else None

    def recording_content(self, recording_id: str) -> list[str]:
        """Return what a recording's pictures depend on: the sha256 of its media, and the digest of the settings."""
        facts = read_json(self._folder(recording_id) / "recording.json")
        return [str(facts["sha256"]), str(facts["config_digest"])]

    def has_crop(self, recording_id: str) -> NDArray[np.bool_]:
        """Return for each sampled frame (N,) whether its crop shows something: under `crop=face` a face was found."""
        found = self.frames(recording_id)["face_found"].to_numpy(dtype=bool)
        return found if self.crop == "face" or not self.has_pictures(recording_id) else np.ones_like(found)

    def has_pictures(self, recording_id: str) -> bool:
        """Return whether a recording shows anything: False where it is sound alone."""
        return (self._folder(recording_id) / "crops.npy").is_file()

    def has_sound(self, recording_id: str) -> bool:
        """Return whether anything can be heard: False without sound, and where every sample is the same (muted)."""
        return recording_id in self._heard

    @cached_property
    def _heard(self) -> frozenset[str]:
        """Recordings with sound; a muted track is as long as any other, so samples are looked at, from the start."""
        heard = set[str]()
        for recording_id in self.recordings["recording_id"]:
            audio = self.audio(str(recording_id))
            if audio is not None and _varies(audio.samples):
                heard.add(str(recording_id))
        return frozenset(heard)

    def crops(self, recording_id: str) -> NDArray[np.uint8]:
        """Return the crops (N, size_px, size_px, 3) uint8 RGB, memory-mapped; zeros where a face wasn't found.

        Raises:
            UserError: An unknown recording, or one without a picture.
        """
        return self._pictures(recording_id, name="crops.npy")

    def context(self, recording_id: str) -> NDArray[np.uint8]:
        """Return the small whole pictures (N, h, context_width_px, 3) uint8 RGB, memory-mapped.

        Raises:
            UserError: An unknown recording, or one without a picture.
        """
        return self._pictures(recording_id, name="context.npy")

    def picture(self, recording_id: str, frame: int) -> NDArray[np.uint8]:
        """Return what was kept of one sampled frame (H, W, 3) uint8 RGB: its crop, the whole picture without one.

        Raises:
            UserError: An unknown recording, or one without a picture.
        """
        source = self.crops if self.has_crop(recording_id)[frame] else self.context
        return np.array(source(recording_id)[frame])

    def audio(self, recording_id: str) -> Audio | None:
        """Return the sound, its samples memory-mapped; None where the recording has none."""
        path = self._folder(recording_id) / "audio.npy"
        if not path.is_file():
            return None
        facts = read_json(self._folder(recording_id) / "recording.json")
        return Audio(
            samples=np.load(path, mmap_mode="r"), rate_hz=facts["audio_rate_hz"], start_s=facts["audio_start_s"]
        )

    def signals(self, recording_id: str) -> SignalTable | None:
        """Return the sensor signals on the recording's clock, None where it has none."""
        return read_signals(self._folder(recording_id))

    @property
    def signal_units(self) -> dict[str, str]:
        """Unit by name of every channel that any recording has."""
        return dict(self.info["signals"])

    @property
    def tool_channels(self) -> dict[str, str]:
        """Which of the signals are a tool's ratings of a face, with the tool; they can be targets, not inputs."""
        return tool_channels(self.info.get("signal_sources", {}))

    def tables(self) -> TargetTables:
        """Return what targets are made of."""
        return TargetTables(
            recordings=self.recordings,
            annotations=self.annotations,
            coded=self.coded,
            segments=self.segments,
            samples=self.samples,
            attributes=self.attributes,
            unit=self.info["study"]["unit"],
            needs_face=self.crop == "face",
            annotator=self.annotator,
            ratings=ToolRatings(tools=self.tool_channels, read=self.signals),
            sound_only=frozenset(self.recordings.loc[self.recordings["num_frames"] == 0, "recording_id"].astype(str)),
        )

    def targets(self) -> list[TargetSummary]:
        """Return what can be asked of this dataset: annotation schemes first, then attributes."""
        return summarise_targets(self.tables())

    def unusable_targets(self) -> list[tuple[str, str]]:
        """Return the name of each scheme and attribute that `targets()` leaves out, and why."""
        return unusable_targets(self.tables())

    def _moments(self, recording_id: str, *, like: pd.DataFrame) -> pd.DataFrame:
        """Return the moments of a recording of sound alone, as a table of frames in which nobody is seen."""
        audio = self.audio(recording_id)
        count = 0 if audio is None else num_moments(len(audio.samples) / audio.rate_hz, fps=self.fps)
        start_s = 0.0 if audio is None else audio.start_s
        frames = np.arange(count)
        table = like.reindex(range(count))
        table = table.assign(frame=frames, pts_s=start_s + frames / self.fps, face_found=False, track=-1)
        known = ["frame", "pts_s", "face_found", "track"]
        return table.astype({name: like[name].dtype for name in known})

    def _samples_of(self, recording_id: str) -> pd.DataFrame:
        frames = self.frames(recording_id)[["frame", "pts_s", "face_found"]]
        end_s = sample_ends(frames["pts_s"].to_numpy(dtype=np.float64), fps=self.fps)
        return frames.assign(recording_id=recording_id, end_s=end_s)[
            ["recording_id", "frame", "pts_s", "end_s", "face_found"]
        ]

    def _pictures(self, recording_id: str, *, name: str) -> NDArray[np.uint8]:
        path = self._folder(recording_id) / name
        if not path.is_file():
            raise UserError(f"{recording_id} has no picture, only sound. Use audio() for it.")
        pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        return pictures

    def _folder(self, recording_id: str) -> Path:
        folder = self.path / "recordings" / recording_id
        if "/" in recording_id or not folder.is_dir():
            raise unknown_name("recording", got=recording_id, allowed=self.recordings["recording_id"])
        return folder

    def _read(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.path / f"{name}.parquet")

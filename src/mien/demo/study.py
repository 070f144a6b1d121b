"""The demonstration's study: drawn people in an iMotions study whose truth is known.

Smile and joy are in the face, speaking is in the sound, attention is always on (so that nothing can be learnt
from it), and one recording doesn't open, as it happens in real studies.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from mien.demo.drawing import FacePainter, Person
from mien.demo.script import Script
from mien.demo.voice import SAMPLE_RATE_HZ, Voice

STUDY_NAME = "mien demonstration"

_STIMULUS = "Screen recording 1"
_STUDY_YAML = f"""\
name: {STUDY_NAME}
purpose: demonstration
consent: no person is shown; every face is drawn
label_source: synthetic
"""
_PREAMBLE = (
    "iMotions,9.3.11",
    "Table,{table}",
    f"Study,{STUDY_NAME}",
    "Exported,2025-01-01 12:00",
    "Time unit,ms",
    "",
)

_KEYFRAMES_EVERY_S = 2
_NOISE_SD = 2.0
"""Of the camera, in steps of brightness."""

_VIDEO_OPTIONS = {"preset": "ultrafast", "crf": "26"}
_AUDIO_OPTIONS = {"aac_coder": "fast"}
_AUDIO_FRAME = 1024
"""Samples in a frame of AAC."""


@dataclass(frozen=True)
class _Participant:
    """One participant of the demonstration; `file_id` is how the recorder wrote their name."""

    name: str
    file_id: str
    age: int
    gender: str
    fps: int
    person: Person
    script: Script
    seed: np.random.SeedSequence

    @property
    def file_name(self) -> str:
        number = 900 + int(self.seed.generate_state(1)[0]) % 1100
        return f"RespCam_{self.file_id}_{_STIMULUS}_({self.age},{self.gender},{number}).mp4"


def write_demo_study(
    out: Path,
    *,
    participants: int = 12,
    duration_s: float = 20.0,
    fps: int = 25,
    width: int = 320,
    height: int = 240,
    seed: int = 0,
    on_recording: Callable[[str], None] | None = None,
) -> Path:
    """Write a study of drawn people in the layout of an iMotions export.

    The same arguments give the same tables, byte for byte, and the same pictures.

    Args:
        out: folder of the study; made where it isn't there.
        participants: how many; one more has a recording that doesn't open.
        duration_s: of each recording, at least 2.
        fps: of the recordings; every third is 5 faster.
        width: of the pictures, px, even.
        height: of the pictures, px, even.
        seed: of everything.
        on_recording: called with a recording's file name once it is written.

    Returns:
        The folder.

    Raises:
        ValueError: Where an argument is out of range.
    """
    if participants < 1 or duration_s < 2 or fps < 1 or width % 2 or height % 2 or min(width, height) < 64:
        raise ValueError(
            f"participants={participants}, duration_s={duration_s}, fps={fps}, {width}x{height} px: "
            "give at least 1 participant, 2 s, 1 frame per second and even sides of at least 64 px."
        )
    cameras = out / "Analysis" / "Respondent Cameras"
    cameras.mkdir(parents=True, exist_ok=True)
    *cast, absent = _cast(participants + 1, duration_s=duration_s, fps=fps, seed=seed)
    for participant in cast:
        path = cameras / participant.file_name
        _record(path, participant, width=width, height=height)
        if on_recording is not None:
            on_recording(path.name)
    _record_broken(cameras / absent.file_name, absent, width=width, height=height)
    if on_recording is not None:
        on_recording(absent.file_name)
    _write_tables(out / "Analysis", cast)
    _write(out / "study.yaml", _STUDY_YAML)
    return out


def _cast(count: int, *, duration_s: float, fps: int, seed: int) -> list[_Participant]:
    """Draw people by lot; each has chances of their own, so that more of them don't change the first."""
    cast: list[_Participant] = []
    taken: set[str] = set()
    for index, own in enumerate(np.random.SeedSequence(seed).spawn(count)):
        looks, plot, paper, recorder = own.spawn(4)
        person = Person.sample(np.random.default_rng(looks))
        rate = fps + 5 if index % 3 == 1 else fps
        # A whole number of frames, so that sound, picture and tables end together.
        whole_s = math.floor(duration_s * rate) / rate
        rng = np.random.default_rng(paper)
        name = _name(rng, taken)
        female = person.beard == 0 and rng.random() < 0.6
        cast.append(
            _Participant(
                name=name,
                # Recorders write names with doubled blanks and underscores; the tables don't.
                file_id=name.replace(" ", {1: "  ", 3: "_"}.get(index % 6, " ")),
                # 0 is how a recorder writes an age that nobody gave.
                age=0 if index == 2 else int(rng.integers(19, 62)),
                gender="FEMALE" if female else "MALE",
                fps=rate,
                person=person,
                script=Script.sample(np.random.default_rng(plot), duration_s=whole_s),
                seed=recorder,
            )
        )
    return cast


def _name(rng: np.random.Generator, taken: set[str]) -> str:
    while True:
        first, second = (chr(ord("A") + int(letter)) for letter in rng.integers(26, size=2))
        name = f"{first}{second} {int(rng.integers(10_000)):04d}"
        if name not in taken:
            taken.add(name)
            return name


def _record(path: Path, participant: _Participant, *, width: int, height: int) -> None:
    """Write one recording, H.264 and AAC in MP4; holds a frame at a time."""
    script, fps = participant.script, participant.fps
    camera_seed, voice_seed = participant.seed.spawn(2)
    painter = FacePainter(participant.person, width=width, height=height)
    camera = _Camera(np.random.default_rng(camera_seed), width=width, height=height)
    voice = Voice(np.random.default_rng(voice_seed), speaking=script.speaking)
    num_frames = round(script.duration_s * fps)
    num_samples = round(script.duration_s * SAMPLE_RATE_HZ)
    unfinished = path.with_name(path.name + ".part")
    with av.open(str(unfinished), "w", format="mp4") as container:
        video = _video_stream(container, fps=fps, width=width, height=height)
        audio: Any = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", options=_AUDIO_OPTIONS)
        audio.bit_rate = 32_000
        heard = 0
        for number in range(num_frames):
            picture = painter.draw(script.expression(number / fps))
            frame: Any = av.VideoFrame.from_ndarray(camera.develop(picture), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
            while heard < num_samples and heard / SAMPLE_RATE_HZ <= (number + 1) / fps:
                count = min(_AUDIO_FRAME, num_samples - heard)
                container.mux(audio.encode(_sound_frame(voice.sound(heard, count), heard)))
                heard += count
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    os.replace(unfinished, path)


def _record_broken(path: Path, participant: _Participant, *, width: int, height: int) -> None:
    """Write a recording that was cut off: MP4's index is at its end, so that it can't be opened."""
    whole = path.with_name(path.name + ".whole")
    script = Script.sample(np.random.default_rng(participant.seed), duration_s=2.0)
    shortened = _Participant(**{**vars(participant), "script": script})
    _record(whole, shortened, width=width, height=height)
    content = whole.read_bytes()
    whole.unlink()
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(content[: len(content) * 6 // 10])
    os.replace(unfinished, path)


def _video_stream(container: Any, *, fps: int, width: int, height: int) -> Any:
    stream = container.add_stream("libx264", rate=fps, options=_VIDEO_OPTIONS)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.gop_size = _KEYFRAMES_EVERY_S * fps
    # One thread: with more of them, pictures this small wait for each other.
    stream.codec_context.thread_count = 1
    return stream


def _sound_frame(sound: NDArray[np.float32], start: int) -> Any:
    frame: Any = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, start, Fraction(1, SAMPLE_RATE_HZ)
    return frame


class _Camera:
    """Turns pictures into what a sensor gives: with noise, and as the encoder wants them.

    Args:
        rng: source of the noise.
        width: of the pictures, px.
        height: of the pictures, px.
    """

    _SPARE_PX = 48

    def __init__(self, rng: np.random.Generator, *, width: int, height: int) -> None:
        self._rng = rng
        self._shape = (height, width)
        # One larger sheet of noise, seen through a window that jumps: new noise for each frame would cost
        # more than the drawing.
        sheet = rng.normal(0, _NOISE_SD, (height + self._SPARE_PX, width + self._SPARE_PX))
        self._noise = np.round(sheet).astype(np.int16)

    def develop(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give the planes of YUV 4:2:0.

        Args:
            picture: RGB, (H, W, 3).

        Returns:
            (H * 3 / 2, W): brightness, then both colours at half size.
        """
        height, width = self._shape
        planes: Any = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
        top, left = (int(v) for v in self._rng.integers(self._SPARE_PX, size=2))
        noise = self._noise[top : top + height, left : left + width]
        planes[:height] = cv2.add(planes[:height], noise, dtype=cv2.CV_8U)
        return np.asarray(planes, dtype=np.uint8)


def _write_tables(analysis: Path, cast: list[_Participant]) -> None:
    expressions: list[str] = []
    fixations: list[str] = []
    peaks: list[str] = []
    for one in cast:
        start = f"{one.name},{_STIMULUS}"
        for channel, spans in one.script.channels(smile_strength=one.person.smile_strength).items():
            expressions += [f"{start},{channel},{_ms(on)},{_ms(off)},{_ms(off - on)}" for on, off in spans]
        for f in one.script.fixations:
            times = f"{_ms(f.onset_s)},{_ms(f.offset_s)},{_ms(f.offset_s - f.onset_s)}"
            fixations.append(f"{start},{times},{round(f.dispersion, 3)}")
        peaks += [f"{start},{_ms(time_s)},{round(size, 3)}" for time_s, size in one.script.gsr_peaks]
    columns = "Expression Type,Expression Onset,Expression Offset,Expression Duration"
    _write_table(analysis / "Facial Coding", "FEAExpressionTable", columns, expressions)
    columns = "Fixation Start,Fixation End,Fixation Duration,Fixation Dispersion"
    _write_table(analysis / "Eye Tracking", "FixationTable", columns, fixations)
    _write_table(analysis / "GSR", "GSRPeakTable", "Peak Time,Peak Amplitude", peaks)


def _ms(time_s: float) -> int:
    return round(time_s * 1000)


def _write_table(folder: Path, table: str, columns: str, rows: Iterable[str]) -> None:
    """Write one table as iMotions does: byte order mark, lines about the export, then the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    head = [line.format(table=table) for line in _PREAMBLE]
    lines = [*head, f"Respondent Name,Stimulus Name,{columns}", *rows]
    _write(folder / f"{table}.csv", "\ufeff" + "".join(f"{line}\r\n" for line in lines))


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(text.encode("utf-8"))
    os.replace(unfinished, path)

"""What a recording brings beside its faces: sound and sensor signals, and times where nothing is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.annotations.formats import read_export
from mien.core.errors import UserError
from mien.core.progress import say
from mien.data.dataset import num_moments
from mien.media.audio import stream_audio
from mien.media.container import has_audio, has_video
from mien.media.signals import SignalTable, resample
from mien.media.video import DecodeLog, sample_frames
from mien.runtime.bundle import Bundle
from mien.runtime.stored_rows import StoredFeatures
from mien.runtime.stored_sound import StoredSound

SOUND_END = "the sound ends"


@dataclass(frozen=True)
class SeenFrames:
    """The sampled frames of a recording.

    Attributes:
        pts_s: (F,) times, s.
        face_found: (F,) whether a face was found.
        features: Of the frames; None where nobody looks, or where `logits` are there already.
        faces: `data.pictures.FRAME_COLUMNS` and `QUALITY_COLUMNS` of the participant's face, F rows; None where nobody
            looks.
        logits: (F, num_outputs), NaN where there is none, of a model that takes each frame by itself; else None.
        damage: What was lost of the recording, such as an end that the file declares and that isn't there; empty where
            nothing was.
    """

    pts_s: NDArray[np.float64]
    face_found: NDArray[np.bool_]
    features: StoredFeatures | None = None
    faces: pd.DataFrame | None = None
    logits: NDArray[np.float64] | None = None
    damage: str = ""


@dataclass(frozen=True)
class Beside:
    """What a recording brings beside its pictures.

    Attributes:
        sound: None where there is none, or the model doesn't listen.
        signals: The same of sensors.
        damage: What was lost of the sound; empty where nothing was.
    """

    sound: StoredSound | None
    signals: SignalTable | None
    damage: str = ""


def sampled_times(path: Path, *, fps: float) -> SeenFrames:
    """Return the times at which `prepare` would sample a recording, without looking at its pictures.

    Args:
        path: A video, of whose frames the same are taken as by `mien.media.video.sample_frames`; or a sound file, which
            has a sample every 1 / `fps` s from its start.
        fps: Samples per second.

    Raises:
        MediaError: It can't be read.
    """
    if has_video(path):
        log = DecodeLog()
        pts_s = np.array([frame.pts_s for frame in sample_frames(path, fps=fps, threads=1, log=log)], np.float64)
        damage = log.describe_loss()
    else:
        damage = ""  # of the sound, which `read_beside` reports
        start_s = end_s = 0.0
        for number, block in enumerate(stream_audio(path)):
            start_s = start_s if number else block.start_s
            end_s = block.start_s + len(block.samples) / block.rate_hz
        count = num_moments(end_s - start_s, fps=fps) if end_s > start_s else 0
        pts_s = start_s + np.arange(count) / fps
    return SeenFrames(pts_s, np.zeros(len(pts_s), bool), damage=damage)


def read_beside(bundle: Bundle, path: Path, *, end_s: float, signals: Path | None) -> Beside:
    """Read what a bundle's model uses beside pictures.

    Args:
        bundle: The model.
        path: The recording.
        end_s: Its end, s.
        signals: Sensor export on the recording's clock; None where there is none.

    Raises:
        MediaError: The sound can't be read.
        UserError: The export can't be read, or there is nothing of all that the model looks at.
    """
    windows = bundle.spec.windows
    if windows is None and not bundle.needs_sound:
        return Beside(None, None)
    rate_hz = bundle.spec.sampling.audio_rate_hz if windows is None else windows.audio_rate_hz
    log = DecodeLog()
    sound = StoredSound.of(path, rate_hz=rate_hz, log=log) if bundle.needs_sound and has_audio(path) else None
    table = None
    if bundle.needs_signals and signals is not None:
        assert windows is not None, "a model of signals looks at windows of them"
        table = resample(read_export(signals).signals, start_s=0.0, end_s=end_s, rate_hz=windows.signals_hz)
        if not set(table.names) & set(windows.signal_names):
            raise UserError(
                f"{signals.name} has none of the channels that {bundle.spec.label} looks at "
                f"({', '.join(windows.signal_names)}); it has {', '.join(table.names) or 'none'}."
            )
    lacking = []
    if bundle.needs_sound and sound is None:
        lacking.append("sound")
    if bundle.needs_signals and table is None:
        lacking.append("signals (--signals names a sensor export)")
    if lacking and len(lacking) == len(bundle.spec.modalities):
        raise UserError(f"{path.name}: {bundle.spec.label} needs {' and '.join(lacking)}, and there are none.")
    if lacking:
        say(f"{path.name}: no {' and no '.join(lacking)}; the model goes on without.")
    return Beside(sound, table, log.describe_loss(last=SOUND_END))

"""What happens in one drawn participant's recording: events, and the face at each moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.demo.person import Expression

_RAMP_S = 0.4
"""How long a smile takes to come and to go."""

_JOY_FROM = 0.6
"""Smiles that go at least this far (share of the strongest person's full smile) also count as joy."""

Sway = NDArray[np.float64]


@dataclass(frozen=True)
class Event:
    """Something that comes, stays and goes.

    Attributes:
        onset_s: when it passes half its size on its way up.
        offset_s: when it passes half its size on its way down.
        size: its height, 0..1.
        ramp_s: how long it takes to come, and to go.
    """

    onset_s: float
    offset_s: float
    size: float = 1.0
    ramp_s: float = _RAMP_S

    def at(self, time_s: float) -> float:
        """Its height at one moment."""
        rise = (time_s - self.onset_s) / self.ramp_s + 0.5
        fall = (self.offset_s - time_s) / self.ramp_s + 0.5
        return self.size * _smooth(min(rise, fall))


@dataclass(frozen=True)
class Fixation:
    """Where the eyes rest for a while.

    Attributes:
        onset_s: start.
        offset_s: end.
        dispersion: degrees.
        gaze_x: -1..1.
        gaze_y: -1..1.
    """

    onset_s: float
    offset_s: float
    dispersion: float
    gaze_x: float
    gaze_y: float


@dataclass(frozen=True)
class Script:
    """One participant's recording, as it was meant.

    Attributes:
        duration_s: length of the recording.
        smiles: the smiles; their times are the truth about `Smile`.
        smirks: traces of a smile that nobody would count.
        mouth_openings: the mouth opens.
        speaking: when a voice is heard.
        brow_raises: the brows rise.
        blinks_s: middle of each blink.
        fixations: where the eyes rest.
        gsr_peaks: (time in s, amplitude in microsiemens) of each skin conductance peak.
        lip_sync: how far the mouth follows the voice, 0..1. People who speak from outside the picture
            and lips that move without a voice exist, so that a mouth isn't a microphone.
        sway: amplitude, frequency in Hz and phase of the head's slow movements, (6, 3, 3): by yaw, pitch,
            roll, x, y and light, then by sine.
    """

    duration_s: float
    smiles: tuple[Event, ...]
    smirks: tuple[Event, ...]
    mouth_openings: tuple[Event, ...]
    speaking: tuple[Event, ...]
    brow_raises: tuple[Event, ...]
    blinks_s: tuple[float, ...]
    fixations: tuple[Fixation, ...]
    gsr_peaks: tuple[tuple[float, float], ...]
    lip_sync: float
    sway: Sway

    @classmethod
    def sample(cls, rng: np.random.Generator, *, duration_s: float) -> Script:
        """Draw a recording's events by lot.

        Args:
            rng: source of chance; the same state gives the same script.
            duration_s: length of the recording.
        """
        prevalence = float(rng.uniform(0.15, 0.55))
        smiles = _events(rng, duration_s, share=prevalence, mean_s=2.2, sizes=(0.75, 1.0))
        peaks_s = _arrivals(rng, duration_s, mean_s=2.4)
        return cls(
            duration_s=duration_s,
            smiles=smiles,
            smirks=_events(rng, duration_s, share=0.12, mean_s=1.2, sizes=(0.10, 0.28)),
            mouth_openings=_events(rng, duration_s, share=0.12, mean_s=0.9, sizes=(0.5, 1.0), ramp_s=0.2),
            speaking=_events(rng, duration_s, share=float(rng.uniform(0.25, 0.5)), mean_s=2.4, ramp_s=0.08),
            brow_raises=_events(rng, duration_s, share=0.12, mean_s=0.9, sizes=(0.4, 1.0), ramp_s=0.25),
            blinks_s=tuple(_arrivals(rng, duration_s, mean_s=3.2)),
            fixations=_fixations(rng, duration_s),
            gsr_peaks=tuple((time_s, float(rng.uniform(0.1, 0.5))) for time_s in peaks_s),
            lip_sync=float(rng.uniform(0.1, 0.8)),
            sway=_sway(rng),
        )

    def channels(self, *, smile_strength: float) -> dict[str, tuple[tuple[float, float], ...]]:
        """Give the truth about each annotated channel.

        Args:
            smile_strength: of the person who plays the script, 0..1.

        Returns:
            Onset and offset in seconds of each event, by channel.
        """
        return {
            "Smile": _spans(self.smiles),
            "Joy": _spans(tuple(e for e in self.smiles if e.size * smile_strength >= _JOY_FROM)),
            "Speaking": _spans(self.speaking),
            "Attention": ((0.0, self.duration_s),),
            "Mouth Open": _spans(self.mouth_openings),
        }

    def expression(self, time_s: float) -> Expression:
        """Give the face at one moment.

        Args:
            time_s: since the start of the recording.
        """
        yaw, pitch, roll, x, y, light = self._sway_at(time_s)
        syllable = 0.5 - 0.5 * math.cos(2 * math.pi * 3.7 * time_s)
        talk = 0.35 * self.lip_sync * syllable * _height(self.speaking, time_s)
        blink = max((1 - abs(time_s - t) / 0.12 for t in self.blinks_s), default=0.0)
        gaze = next((f for f in self.fixations if f.onset_s <= time_s < f.offset_s), None)
        return Expression(
            smile=max(_height(self.smiles, time_s), _height(self.smirks, time_s)),
            mouth_open=max(_height(self.mouth_openings, time_s), talk),
            brow_raise=_height(self.brow_raises, time_s),
            blink=min(max(1.3 * blink, 0.0), 1.0),
            gaze_x=gaze.gaze_x if gaze else 0.0,
            gaze_y=gaze.gaze_y if gaze else 0.0,
            yaw=yaw,
            pitch=pitch,
            roll=roll,
            offset_x=x,
            offset_y=y,
            light=1 + light,
        )

    def _sway_at(self, time_s: float) -> list[float]:
        waves = self.sway[..., 0] * np.sin(2 * np.pi * self.sway[..., 1] * time_s + self.sway[..., 2])
        return [float(v) for v in waves.sum(axis=1)]


def _smooth(part: float) -> float:
    part = min(max(part, 0.0), 1.0)
    return part * part * (3 - 2 * part)


def _height(events: tuple[Event, ...], time_s: float) -> float:
    return max((event.at(time_s) for event in events), default=0.0)


def _spans(events: tuple[Event, ...]) -> tuple[tuple[float, float], ...]:
    return tuple((event.onset_s, event.offset_s) for event in events)


def _events(
    rng: np.random.Generator,
    duration_s: float,
    *,
    share: float,
    mean_s: float,
    sizes: tuple[float, float] = (1.0, 1.0),
    ramp_s: float = _RAMP_S,
) -> tuple[Event, ...]:
    """Spread events over a recording: together they last `share` of it, each about `mean_s`."""
    gap_s = 2 * ramp_s + 0.1
    total_s = max(share * duration_s, 1.5 * ramp_s)
    # Fewer events where there is no room for the pauses between them.
    room = int((duration_s - total_s) / gap_s) - 1
    count = max(1, min(round(total_s / mean_s), room))
    lengths = rng.uniform(0.6, 1.4, count)
    lengths *= total_s / lengths.sum()
    free_s = max(0.0, duration_s - total_s - (count + 1) * gap_s)
    gaps = gap_s + free_s * rng.dirichlet(np.full(count + 1, 1.5))
    events: list[Event] = []
    time_s = 0.0
    for gap, length in zip(gaps, lengths, strict=False):
        onset_s = time_s + float(gap)
        time_s = onset_s + float(length)
        events.append(Event(onset_s=onset_s, offset_s=time_s, size=float(rng.uniform(*sizes)), ramp_s=ramp_s))
    return tuple(events)


def _arrivals(rng: np.random.Generator, duration_s: float, *, mean_s: float) -> list[float]:
    times: list[float] = []
    time_s = float(rng.uniform(0.3, mean_s))
    while time_s < duration_s - 0.2:
        times.append(time_s)
        time_s += float(0.4 * mean_s + rng.exponential(0.6 * mean_s))
    return times


def _fixations(rng: np.random.Generator, duration_s: float) -> tuple[Fixation, ...]:
    fixations: list[Fixation] = []
    time_s = 0.1
    while True:
        end_s = time_s + float(np.clip(rng.gamma(3.0, 0.09), 0.06, 0.9))
        if end_s > duration_s:
            return tuple(fixations)
        x, y = rng.normal(0, 0.35), rng.normal(0, 0.2)
        fixations.append(
            Fixation(
                onset_s=time_s,
                offset_s=end_s,
                dispersion=float(rng.gamma(2.0, 0.35)),
                gaze_x=float(np.clip(x, -1, 1)),
                gaze_y=float(np.clip(y, -0.6, 0.6)),
            )
        )
        time_s = end_s + float(rng.uniform(0.03, 0.12))


def _sway(rng: np.random.Generator) -> Sway:
    reach = np.array([0.32, 0.20, 0.022, 0.035, 0.025, 0.022]) * rng.uniform(0.5, 1.2, 6)
    sway = np.empty((6, 3, 3))
    sway[..., 0] = reach[:, None] * np.array([0.7, 0.45, 0.25])
    sway[..., 1] = rng.uniform(0.03, 0.10, (6, 3)) * np.array([1.0, 2.5, 5.0])
    sway[..., 2] = rng.uniform(0, 2 * np.pi, (6, 3))
    return sway

"""The signals of a recording on one grid: written once by `prepare`, read by whatever looks at sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mien.annotations.exports import Export
from mien.annotations.formats import read_export
from mien.core.errors import MediaError, UserError
from mien.core.progress import progress
from mien.core.storage import digest_of, read_json, sha256_file, write_json, write_parquet
from mien.core.types import Problem, Signal
from mien.data.exports import read_with_frames
from mien.data.layouts import SignalSource
from mien.media.signals import SignalTable, resample

SIGNALS_FILE = "signals.parquet"
SIGNALS_FACTS = "signals.json"
SPEECH_FILE = "speech.parquet"
TIME_COLUMN = "time_s"

NUM_EXPORTS_HELD = 4
"""A recording's own export, and the tables that hold everybody's (fixations, GSR peaks), read once for all."""


def write_all_signals(
    sources: Mapping[str, Sequence[SignalSource]],
    *,
    folders: Path,
    ends_s: Mapping[str, float],
    rate_hz: float,
    problems: list[Problem],
) -> dict[str, dict[str, Any]]:
    """Write the signals of every recording that has some; what an earlier run wrote of the same exports stays.

    Args:
        sources: Where signals lie, by recording id.
        folders: Holds a folder per recording.
        ends_s: End of each recording, s.
        rate_hz: Values per second.
        problems: Where exports that can't be read are reported.

    Returns:
        By recording id what `signals.json` holds: rate_hz, names, units, sources and the digest of what they were made
        of.
    """
    facts: dict[str, dict[str, Any]] = {}
    read = lru_cache(maxsize=NUM_EXPORTS_HELD)(_read)
    digest = lru_cache(maxsize=None)(_content)
    with progress("signals", total=len(ends_s)) as advance:
        for recording_id, end_s in ends_s.items():
            folder = folders / recording_id
            own = sources.get(recording_id, ())
            wanted = [[digest(s.path), s.respondent, s.stimulus, s.shift_s] for s in own]
            speech = _read_speech(folder)
            key = digest_of([wanted, rate_hz, end_s, [signal.values.tolist() for signal in speech]])
            empty = not own and not speech
            if empty or _digest(folder) != key:
                _remove(folder)
            if not empty and _digest(folder) != key:
                try:
                    signals = [signal for source in own for signal in _shifted(read(source.path, source.media), source)]
                except (UserError, MediaError) as error:
                    problems.append(Problem(recording_id, "annotations", str(error), "Export it again."))
                    signals = []
                if signals or speech:
                    _write(folder, [*signals, *speech], end_s=end_s, rate_hz=rate_hz, digest=key)
            if (folder / SIGNALS_FACTS).is_file():
                facts[recording_id] = read_json(folder / SIGNALS_FACTS)
            advance(recording_id)
    return facts


def write_speech(folder: Path, speech: Signal) -> None:
    """Write when somebody speaks, as it was found in the recording's own sound."""
    write_parquet(folder / SPEECH_FILE, pd.DataFrame({TIME_COLUMN: speech.times_s, speech.name: speech.values}))


def _read_speech(folder: Path) -> list[Signal]:
    path = folder / SPEECH_FILE
    if not path.is_file():
        return []
    table = pd.read_parquet(path)
    name = table.columns[1]
    times_s, values = table[TIME_COLUMN].to_numpy(np.float64), table[name].to_numpy(np.float32)
    return [Signal(name, unit="", times_s=times_s, values=values, source="sound")]


def read_signals(folder: Path) -> SignalTable | None:
    """Return the signals in a recording's folder, None where it has none."""
    if not (folder / SIGNALS_FACTS).is_file():
        return None
    facts = read_json(folder / SIGNALS_FACTS)
    table = pd.read_parquet(folder / SIGNALS_FILE)
    return SignalTable(
        names=tuple(facts["names"]),
        units=tuple(facts["units"]),
        times_s=table[TIME_COLUMN].to_numpy(dtype=np.float64),
        values=table[facts["names"]].to_numpy(dtype=np.float32),
        sources=tuple(facts.get("sources", ())),
    )


def signals_of(source: SignalSource) -> list[Signal]:
    """Return the signals that a source names, on the recording's clock.

    Raises:
        UserError: The export can't be read.
        MediaError: The recording's frames are needed and can't be decoded.
    """
    return _shifted(_read(source.path, source.media), source)


def _read(path: Path, media: Path | None) -> Export:
    return read_export(path) if media is None else read_with_frames(path, media=media)


def _content(path: Path) -> str:
    """Return the digest of an export: of a folder (Empatica), of all its files."""
    if not path.is_dir():
        return sha256_file(path)
    return digest_of({item.name: sha256_file(item) for item in path.iterdir() if item.is_file()})


def _shifted(export: Export, source: SignalSource) -> list[Signal]:
    """Return the signals of an export that a source names, on the recording's clock, as of one respondent."""
    own = [
        signal
        for signal in export.signals
        if source.respondent in (None, signal.respondent) and source.stimulus in (None, signal.stimulus)
    ]
    # The recording says whose they are; exports spell one person in several ways.
    return [replace(s, times_s=s.times_s + source.shift_s, respondent="", stimulus="") for s in own]


def _write(folder: Path, signals: Sequence[Signal], *, end_s: float, rate_hz: float, digest: str) -> None:
    table = resample(signals, start_s=0.0, end_s=end_s, rate_hz=rate_hz)
    columns = {TIME_COLUMN: table.times_s} | {name: table.values[:, number] for number, name in enumerate(table.names)}
    write_parquet(folder / SIGNALS_FILE, pd.DataFrame(columns))
    # Written last: the table counts from then on.
    write_json(
        folder / SIGNALS_FACTS,
        {
            "rate_hz": rate_hz,
            "names": list(table.names),
            "units": list(table.units),
            "sources": list(table.sources),
            "digest": digest,
        },
    )


def _digest(folder: Path) -> str:
    path = folder / SIGNALS_FACTS
    facts = read_json(path) if path.is_file() else {}
    # What an earlier version wrote doesn't say which sensor or tool a channel is of: it is written again.
    return str(facts.get("digest")) if "sources" in facts else ""


def _remove(folder: Path) -> None:
    for name in (SIGNALS_FACTS, SIGNALS_FILE):
        (folder / name).unlink(missing_ok=True)

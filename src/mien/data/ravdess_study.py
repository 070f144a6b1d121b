"""The RAVDESS corpus: everything is in the file's name, `MM-VC-EE-II-SS-RR-AA`.

Livingstone & Russo 2018, The Ryerson Audio-Visual Database of Emotional Speech and Song, PLoS ONE 13(5). The emotions
are acted: the instruction to express one is the stimulus, so the label source is `stimulus`, and a result says how well
the intended emotion can be told, not the felt one.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from mien.core.types import Problem, Recording
from mien.data.layouts import (
    AUDIO_SUFFIXES,
    CODED_COLUMNS,
    SEGMENT_COLUMNS,
    VIDEO_SUFFIXES,
    Attribute,
    Study,
    StudyFile,
    annotation_table,
    empty_table,
    list_files,
    unique_id,
)

NAMES = ("MM-VC-EE-II-SS-RR-AA.mp4 or .wav, such as 01-01-03-02-01-01-12.mp4 (RAVDESS)",)

CHANNELS = {"01": "speech", "02": "song"}
EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "kids", "02": "dogs"}
"""Kids are talking by the door; dogs are sitting by the door."""

_NAME = re.compile(
    r"(?P<modality>\d\d)-(?P<channel>\d\d)-(?P<emotion>\d\d)-(?P<intensity>\d\d)-(?P<statement>\d\d)-(?P<repetition>\d\d)"
    r"-(?P<participant>\d\d)"
)


def is_ravdess(path: Path) -> bool:
    """Return whether a file is named like one of RAVDESS."""
    return bool(_NAME.fullmatch(path.stem))


def find_ravdess_study(root: Path, *, facts: StudyFile | None) -> Study:
    """Find the recordings of RAVDESS, or of a part of it, and read their names.

    The emotion is one annotation over the whole recording; what else the name says are attributes.

    Args:
        root: The folder.
        facts: Its `study.yaml`, where somebody wrote one.
    """
    problems: list[Problem] = []
    recordings: list[Recording] = []
    annotations: list[dict[str, object]] = []
    taken = set[str]()
    source = (facts.label_source if facts else "") or "stimulus"
    for path in list_files(root, suffixes=VIDEO_SUFFIXES | AUDIO_SUFFIXES):
        match = _NAME.fullmatch(path.stem)
        emotion = EMOTIONS.get(match["emotion"]) if match else None
        if match is None or emotion is None:
            reason = f"{path.name} isn't named {NAMES[0]}, or its emotion code is none of 01 to 08"
            problems.append(Problem(path.name, "find", reason, "Restore the name that the corpus gave it."))
            continue
        recording = _recording(path, match, recording_id=unique_id((path.stem,), taken=taken))
        recordings.append(recording)
        annotations.append(
            {
                "recording_id": recording.recording_id,
                "onset_s": 0.0,
                "offset_s": math.inf,
                "scheme": "emotion",
                "value": emotion,
                "source": source,
            }
        )
    return Study(
        root=root,
        name=(facts.name if facts else "") or "RAVDESS",
        layout="ravdess",
        label_source=source,
        purpose=facts.purpose if facts else "",
        consent=facts.consent if facts else "",
        unit="recording",
        recordings=tuple(recordings),
        annotations=annotation_table(annotations),
        coded=empty_table(CODED_COLUMNS),
        segments=empty_table(SEGMENT_COLUMNS),
        problems=tuple(problems),
    )


def _recording(path: Path, match: re.Match[str], *, recording_id: str) -> Recording:
    participant = match["participant"]
    attributes: dict[str, Attribute] = {
        "gender": "male" if int(participant) % 2 else "female",
        "channel": CHANNELS.get(match["channel"], match["channel"]),
        "intensity": INTENSITIES.get(match["intensity"], match["intensity"]),
        "statement": STATEMENTS.get(match["statement"], match["statement"]),
        "repetition": match["repetition"],
    }
    return Recording(
        recording_id=recording_id,
        participant_id=participant,
        path=path,
        camera="audio" if path.suffix.lower() in AUDIO_SUFFIXES else "camera",
        group=participant,
        attributes=attributes,
    )

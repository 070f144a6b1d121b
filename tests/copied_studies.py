"""Studies in which copies of a person pass for several participants, as plain studies with real video files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from media_fixtures import write_video

Picture = NDArray[np.uint8]

ORIGINAL = "LE 3299"
COPIES = {"CP 0636": "brighter", "NS 4013": "contrast", "MP 5114": "hue", "JM 9684": "darker"}
"""The design's four participants, each the original under another light."""


def _hue(rgb: Picture) -> Picture:
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 15) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _turned(rgb: Picture) -> Picture:
    height, width = rgb.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 10, 1)
    return cv2.warpAffine(rgb, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _jpeg(rgb: Picture) -> Picture:
    return cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)


def _halved(rgb: Picture) -> Picture:
    # Even sides, because the codec needs them.
    size = (rgb.shape[1] // 4 * 2, rgb.shape[0] // 4 * 2)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _cut(rgb: Picture) -> Picture:
    height, width = rgb.shape[:2]
    return rgb[height // 8 // 2 * 2 : height // 16 * 15 // 2 * 2, width // 5 // 2 * 2 : width // 8 * 7 // 2 * 2]


PHOTOMETRIC: dict[str, Callable[[Picture], Picture]] = {
    "brighter": lambda rgb: cv2.convertScaleAbs(rgb, alpha=1.3),
    "contrast": lambda rgb: np.clip((rgb.astype(np.float32) - 128) * 1.4 + 128, 0, 255).astype(np.uint8),
    "hue": _hue,
    "darker": lambda rgb: cv2.convertScaleAbs(rgb, alpha=0.6),
}
GEOMETRIC: dict[str, Callable[[Picture], Picture]] = {
    "mirrored": lambda rgb: np.ascontiguousarray(rgb[:, ::-1]),
    "turned": _turned,
    "jpeg": _jpeg,
    "halved": _halved,
    "cut": _cut,
}


def drawn_pictures(seed: int, *, count: int, width: int = 192, height: int = 144) -> list[Picture]:
    """Pictures of one drawn person whose face moves."""
    from mien.demo.drawing import Expression, FacePainter, Person

    painter = FacePainter(Person.sample(np.random.default_rng(seed)), width=width, height=height)
    rng = np.random.default_rng([seed, 1])
    moves = rng.uniform(-1, 1, (count, 4))
    return [
        painter.draw(
            Expression(
                smile=abs(float(move[0])),
                roll=0.08 * float(move[1]),
                offset_x=0.1 * float(move[2]),
                offset_y=0.05 * float(move[3]),
            )
        )
        for move in moves
    ]


def write_study(
    root: Path,
    people: Mapping[str, Sequence[Picture]],
    *,
    positive: Sequence[str] = (),
    fps: float = 1.0,
    camera: str = "camera",
) -> Path:
    """Write one recording per participant; `Adaptive Engagement` is always on for those in `positive`, else off."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "study.yaml").write_text(
        "name: copies\npurpose: test\nconsent: see ../shared/data/README.md\nlabel_source: human\nunit: participant\n"
    )
    rows, labels, coded = ["media,participant,camera"], ["recording,onset_s,offset_s,label"], ["recording,from_s,to_s"]
    for person, pictures in people.items():
        name = person.replace(" ", "-")
        write_video(root / f"{name}.mp4", times_s=[i / fps for i in range(len(pictures))], pictures=list(pictures))
        rows.append(f"{name}.mp4,{person},{camera}")
        coded.append(f"{name},0,{len(pictures) / fps}")
        if person in positive:
            labels.append(f"{name},0,{len(pictures) / fps},Adaptive Engagement")
    for table, lines in (("recordings", rows), ("annotations", labels), ("coded", coded)):
        (root / f"{table}.csv").write_text("\n".join(lines) + "\n")
    return root


def write_copied_study(root: Path, pictures: Sequence[Picture]) -> Path:
    """Write the design's own dataset: one person, and four photometric copies declared to be other participants."""
    people = {ORIGINAL: pictures} | {name: [PHOTOMETRIC[how](p) for p in pictures] for name, how in COPIES.items()}
    return write_study(root, people, positive=("CP 0636", "MP 5114"))

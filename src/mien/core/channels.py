"""The 50 channels of an iMotions study as a label scheme: 28 behaviours, 5 sensor features, 17 emotional channels.

Names are those of the expression tables. Which action unit a behaviour is comes from Affectiva, whose classifiers
follow the Facial Action Coding System: McDuff et al., "AFFDEX SDK: A Cross-Platform Real-Time Multi-Face Expression
Recognition Toolkit", CHI EA 2016, and Bishay et al., "AFFDEX 2.0", FG 2023; names of the units: Ekman, Friesen & Hager,
FACS, 2002. The SDK has no detector of lip tightening: there the unit is that of FACS itself (AU23).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

ChannelKind = Literal["behaviour", "sensor", "emotion"]
ChannelGroup = Literal["head", "eyes and brows", "mouth", "other", "sensor", "emotional"]


@dataclass(frozen=True)
class Channel:
    """One channel that a study labels.

    Attributes:
        name: As the expression tables spell it; sensor features as a study's column is called.
        kind: `behaviour` (seen in the face), `sensor` (per second, from eye tracker or skin conductance) or `emotion`.
        group: Where a behaviour is seen; `sensor` and `emotional` for the others.
        unit: Unit of a sensor feature; empty for what is there or not, and where exports name none.
        aliases: Other spellings, case and white space ignored.
    """

    name: str
    kind: ChannelKind
    group: ChannelGroup
    unit: str = ""
    aliases: tuple[str, ...] = field(default=())


FACE_TOOLS = ("AFFDEX", "FACET", "OpenFace", "Py-Feat")
"""Sources of signals that are a tool's ratings of a face: what such a tool says isn't measured on the person."""


def _behaviours(group: ChannelGroup, **aliases: tuple[str, ...]) -> tuple[Channel, ...]:
    return tuple(
        Channel(name.replace("_", " "), "behaviour", group, aliases=others) for name, others in aliases.items()
    )


HEAD = _behaviours(
    "head",
    Head_Leaning_Forward=(),
    Head_Leaning_Backward=(),
    Head_Not_Tilted=(),
    Head_Pointing_Forward=(),
    Head_Pointing_Up=(),
    Head_Down=("Head Pointing Down",),
    Head_Tilted_Left=(),
    Head_Tilted_Right=(),
    Head_Turned_Forward=(),
    Head_Turned_Left=(),
    Head_Turned_Right=(),
)

EYES_AND_BROWS = _behaviours(
    "eyes and brows",
    Eye_Closure=("AU43", "Eyes Closed"),
    Eye_Widen=("AU5", "Upper Lid Raiser"),
    Brow_Furrow=("AU4", "Brow Lowerer"),
    Brow_Raise=("AU2", "Outer Brow Raiser"),
)

MOUTH = _behaviours(
    "mouth",
    Mouth_Open=("AU25", "Lips Part"),
    Jaw_Drop=("AU26",),
    Speaking=(),
    Lip_Press=("AU24", "Lip Pressor"),
    Lip_Pucker=("AU18", "Lip Puckerer"),
    Lip_Stretch=("AU20", "Lip Stretcher"),
    Lip_Suck=("AU28",),
    Lip_Tighten=("AU23", "Lip Tightener"),
)

OTHER = _behaviours(
    "other",
    Cheek_Raise=("AU6", "Cheek Raiser"),
    Chin_Raise=("AU17", "Chin Raiser"),
    Dimpler=("AU14",),
    Nose_Wrinkle=("AU9", "Nose Wrinkler"),
    Upper_Lip_Raise=("AU10", "Upper Lip Raiser"),
)

SENSOR = (
    Channel("Fixation Density", "sensor", "sensor", "fixations per second"),
    Channel("Average Fixation Duration", "sensor", "sensor", "ms"),
    Channel("Gaze Dispersion", "sensor", "sensor", aliases=("Fixation Dispersion",)),
    Channel("GSR Peak Count", "sensor", "sensor", "peaks per second"),
    Channel("Average GSR Peak Amplitude", "sensor", "sensor", "microSiemens", ("GSR Average Amplitude",)),
)

EMOTIONAL: tuple[Channel, ...] = tuple(
    Channel(name, "emotion", "emotional", aliases=aliases)
    for name, aliases in {
        "Joy": (),
        "Anger": (),
        "Fear": (),
        "Disgust": (),
        "Sadness": (),
        "Surprise": (),
        "Contempt": (),
        "Positive Valence": (),
        "Negative Valence": (),
        "Neutral Valence": (),
        "Attention": (),
        "Adaptive Engagement": (),
        "Confusion": (),
        "Sentimentality": (),
        "Smile": ("AU12", "Lip Corner Puller"),
        "Smirk": (),
        "Neutral": (),
    }.items()
)

BEHAVIOURS = HEAD + EYES_AND_BROWS + MOUTH + OTHER
PHYSICAL = BEHAVIOURS + SENSOR
CHANNELS = PHYSICAL + EMOTIONAL


def find_channel(text: str) -> Channel | None:
    """Return the channel that a label or column stands for, None where it is none of the 50.

    Case, white space and underscores don't count, nor does the leading zero of an action unit; OpenFace's endings for
    intensity and presence (`AU04_r`, `AU04_c`) are taken off. Not every rating with an emotion's name is the channel:
    FACET's `Joy Evidence` and `Joy Intensity` are two other quantities, of which none can bear the channel's name
    alone, and AFFDEX's `Engagement` isn't `Adaptive Engagement`; they are none.

    >>> [channel.name for channel in map(find_channel, ("browFurrow", "BROW  FURROW", "AU04_r", "au4")) if channel]
    ['Brow Furrow', 'Brow Furrow', 'Brow Furrow', 'Brow Furrow']
    >>> find_channel("Joy Evidence") is None
    True
    """
    return _BY_KEY.get(_key(text))


def _key(text: str) -> str:
    plain = re.sub(r"[\s_]+", "", text.strip()).lower()
    unit = re.fullmatch(r"au0*(\d+)[rc]?", plain)
    return f"au{unit.group(1)}" if unit else plain


_BY_KEY = {_key(spelling): channel for channel in CHANNELS for spelling in (channel.name, *channel.aliases)}
assert len(_BY_KEY) == sum(1 + len(channel.aliases) for channel in CHANNELS), "a spelling stands for two channels"

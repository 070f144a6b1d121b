"""Who is drawn, and what their face does: the parameters of the demonstration's pictures.

Lengths are in head units (half the height of the head, hair not counted), x to the right and y downwards
in the picture, with the origin in the middle of the head. Colours are RGB in 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Colour = tuple[float, float, float]
HairStyle = Literal["short", "parted", "long", "bob", "curly", "bun", "buzz", "wavy"]

_HAIR_STYLES: tuple[HairStyle, ...] = ("short", "parted", "long", "bob", "curly", "bun", "buzz", "wavy")
_SKIN_TONES: tuple[Colour, ...] = (
    (246, 214, 192), (236, 196, 168), (224, 178, 146), (206, 156, 122),
    (182, 130, 98), (152, 104, 76), (122, 82, 60),
)  # fmt: skip
_HAIR_COLOURS: tuple[Colour, ...] = (
    (38, 30, 28), (62, 44, 34), (92, 62, 42), (128, 86, 52),
    (178, 132, 78), (206, 170, 112), (150, 72, 40), (158, 150, 142),
)  # fmt: skip
_IRIS_COLOURS: tuple[Colour, ...] = (
    (74, 48, 32), (96, 66, 40), (86, 104, 70), (76, 110, 138), (100, 120, 126),
)  # fmt: skip
_ROOM_COLOURS: tuple[Colour, ...] = (
    (176, 196, 204), (206, 198, 180), (158, 178, 162), (196, 180, 192),
    (140, 156, 176), (214, 206, 200), (186, 168, 148),
)  # fmt: skip
_SHIRT_COLOURS: tuple[Colour, ...] = (
    (52, 84, 120), (150, 64, 60), (64, 104, 84), (214, 208, 196),
    (96, 80, 120), (60, 62, 70), (198, 150, 70), (92, 140, 160),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """What stays the same about one drawn person, their room and their camera.

    Attributes:
        skin: colour of lit skin.
        hair_rgb: colour of lit hair.
        hair_style: shape of the hair.
        hairline: y of the hairline's middle (negative: above the eyes).
        head_aspect: width of the head over its height.
        jaw: how much narrower the jaw is than the temples, as a fraction.
        eye_spacing: half the distance between the pupils.
        eye_size: half the width of an eye.
        eye_y: height of the eyes.
        eye_open: height of an open eye over its width.
        eye_tilt: outer corner above the inner one, radians.
        iris_rgb: colour of the irises.
        brow_weight: thickness of the brows.
        brow_y: distance of the brows above the eyes.
        brow_tilt: outer end above the inner end, radians.
        nose_size: half the width of the nose at its wings.
        nose_y: height of the tip of the nose.
        mouth_width: half the width of the mouth at rest.
        mouth_y: height of the mouth.
        lip: fullness of the lips.
        resting_curve: curve of the mouth at rest (positive: corners up). People differ, so that a
            picture alone doesn't say who smiles.
        smile_strength: how far a full smile of this person goes, 0..1.
        teeth: how much of the teeth a full smile shows, 0..1.
        cheeks: how strongly the cheeks lift with a smile, 0..1.
        blush: redness of the cheeks, 0..1.
        freckles: density of freckles, 0..1.
        beard: density of the beard, 0..1.
        glasses: 0 none, 1 round, 2 square.
        light: direction to the light (x, y, z towards the camera), unit length.
        light_rgb: colour of the light, 1 for white.
        ambient: share of the light that comes from everywhere, 0..1.
        brightness: gain of the whole picture.
        room_rgb: colour of the wall.
        shirt_rgb: colour of the clothes.
        size: half the height of the head over the height of the picture.
        centre_x: middle of the head over the width of the picture.
        centre_y: middle of the head over the height of the picture.
        texture_seed: seed of strands, freckles and of what stands in the room.
    """

    skin: Colour
    hair_rgb: Colour
    hair_style: HairStyle
    hairline: float
    head_aspect: float
    jaw: float
    eye_spacing: float
    eye_size: float
    eye_y: float
    eye_open: float
    eye_tilt: float
    iris_rgb: Colour
    brow_weight: float
    brow_y: float
    brow_tilt: float
    nose_size: float
    nose_y: float
    mouth_width: float
    mouth_y: float
    lip: float
    resting_curve: float
    smile_strength: float
    teeth: float
    cheeks: float
    blush: float
    freckles: float
    beard: float
    glasses: int
    light: tuple[float, float, float]
    light_rgb: Colour
    ambient: float
    brightness: float
    room_rgb: Colour
    shirt_rgb: Colour
    size: float
    centre_x: float
    centre_y: float
    texture_seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Person:
        """Draw a person by lot.

        Args:
            rng: source of chance; the same state gives the same person.
        """
        uniform, choose = rng.uniform, rng.integers
        tone = float(uniform(0, len(_SKIN_TONES) - 1))
        style = _HAIR_STYLES[int(choose(len(_HAIR_STYLES)))]
        bearded = style in ("short", "parted", "curly", "buzz") and rng.random() < 0.35
        return cls(
            skin=_jitter(_between(_SKIN_TONES, tone), rng, spread=3),
            hair_rgb=_hair_colour(tone, rng),
            hair_style=style,
            hairline=float(uniform(-0.62, -0.47)),
            head_aspect=float(uniform(0.70, 0.84)),
            jaw=float(uniform(0.06, 0.30)),
            eye_spacing=float(uniform(0.275, 0.35)),
            eye_size=float(uniform(0.13, 0.168)),
            eye_y=float(uniform(-0.12, -0.02)),
            eye_open=float(uniform(0.42, 0.62)),
            eye_tilt=float(uniform(-0.10, 0.16)),
            iris_rgb=_jitter(_IRIS_COLOURS[int(choose(5 if tone < 3 else 2))], rng, spread=5),
            brow_weight=float(uniform(0.028, 0.060)),
            brow_y=float(uniform(0.17, 0.24)),
            brow_tilt=float(uniform(-0.20, 0.09)),
            nose_size=float(uniform(0.105, 0.165)),
            nose_y=float(uniform(0.26, 0.36)),
            mouth_width=float(uniform(0.20, 0.29)),
            mouth_y=float(uniform(0.54, 0.62)),
            lip=float(uniform(0.040, 0.080)),
            resting_curve=float(uniform(-0.30, 0.45)),
            smile_strength=float(uniform(0.45, 1.0)),
            teeth=float(uniform(0.0, 1.0)) * float(rng.random() < 0.7),
            cheeks=float(uniform(0.4, 1.0)),
            blush=float(uniform(0.1, 0.5)),
            freckles=float(uniform(0.3, 1.0)) * float(rng.random() < 0.25 and tone < 3),
            beard=float(uniform(0.35, 0.9)) * float(bearded),
            glasses=int(choose(1, 3)) * int(rng.random() < 0.22),
            light=_light_direction(rng),
            light_rgb=_lamp_colour(rng),
            ambient=float(uniform(0.35, 0.6)),
            brightness=float(uniform(0.9, 1.1)),
            room_rgb=_jitter(_ROOM_COLOURS[int(choose(len(_ROOM_COLOURS)))], rng, spread=7),
            shirt_rgb=_jitter(_SHIRT_COLOURS[int(choose(len(_SHIRT_COLOURS)))], rng, spread=10),
            size=float(uniform(0.27, 0.34)),
            centre_x=float(uniform(0.42, 0.58)),
            centre_y=float(uniform(0.43, 0.49)),
            texture_seed=int(choose(2**31)),
        )


@dataclass(frozen=True)
class Expression:
    """What one picture's face does; the default is the face at rest, looking at the camera.

    Attributes:
        smile: 0 at rest, 1 for this person's full smile (`Person.smile_strength` is applied on top).
        mouth_open: 0 closed, 1 wide open.
        brow_raise: 0 at rest, 1 raised.
        blink: 0 open, 1 closed.
        gaze_x: where the eyes look, -1..1.
        gaze_y: where the eyes look, -1..1.
        yaw: turn of the head, -1..1 (about 20 degrees).
        pitch: nod of the head, -1..1.
        roll: tilt of the head, radians.
        offset_x: shift of the head, head units.
        offset_y: shift of the head, head units.
        light: gain of the whole picture, 1 for none.
    """

    smile: float = 0.0
    mouth_open: float = 0.0
    brow_raise: float = 0.0
    blink: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    offset_x: float = 0.0
    offset_y: float = 0.0
    light: float = 1.0


def _between(colours: tuple[Colour, ...], position: float) -> Colour:
    low = min(int(position), len(colours) - 2)
    part = position - low
    first, second = colours[low], colours[low + 1]
    return (
        first[0] + part * (second[0] - first[0]),
        first[1] + part * (second[1] - first[1]),
        first[2] + part * (second[2] - first[2]),
    )


def _jitter(colour: Colour, rng: np.random.Generator, *, spread: float) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.normal(0, spread, 3), 0, 255)
    return (float(red), float(green), float(blue))


def _light_direction(rng: np.random.Generator) -> tuple[float, float, float]:
    # From above, as windows and lamps are, and never from behind.
    light = np.array([rng.uniform(-0.75, 0.75), rng.uniform(-0.75, -0.25), rng.uniform(0.75, 1.0)])
    across, down, towards = light / np.linalg.norm(light)
    return (float(across), float(down), float(towards))


def _lamp_colour(rng: np.random.Generator) -> Colour:
    warmth = float(rng.uniform(-0.05, 0.05))
    return (1 + warmth, 1.0, 1 - warmth)


def _hair_colour(tone: float, rng: np.random.Generator) -> Colour:
    # Dark skin with dark hair mostly: pale hair on it lowers the contrast of the face's outline.
    allowed = _HAIR_COLOURS if tone < 2.5 else (*_HAIR_COLOURS[:3], _HAIR_COLOURS[-1])
    return _jitter(allowed[int(rng.integers(len(allowed)))], rng, spread=5)

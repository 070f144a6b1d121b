"""How a model is asked for: `NAME`, `NAME@BACKBONE`, each with `+BASELINE`, as in `linear_probe@hog+recording`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.core.errors import UserError, unknown_name
from mien.models.hub_sound_encoder import is_sound_backbone
from mien.models.registry import MODELS
from mien.models.sequence_parts import SequenceEntry
from mien.runtime.baseline import PersonalBaseline

PROBE = "linear_probe"
_CHOICE = re.compile(
    r"(?P<name>[A-Za-z0-9_]+)(@(?P<backbone>.+?))?(\+(?P<baseline>none|recording|running|first:[\d.]+|segment:.+))?"
)


@dataclass(frozen=True)
class ModelChoice:
    """One model of a comparison.

    Attributes:
        text: What the user wrote; the name in every output.
        name: Name in the registry.
        backbone: Built-in encoder, ONNX file, weights folder, Hugging Face directory or id; None for the model's own.
        baseline: The personal baseline.
    """

    text: str
    name: str
    backbone: str | None
    baseline: PersonalBaseline

    @property
    def is_probe(self) -> bool:
        """Whether this is a linear probe on frozen features."""
        return self.name == PROBE

    @property
    def is_sequence(self) -> bool:
        """Whether this is a network over windows of frozen features, sound and signals."""
        return isinstance(MODELS[self.name], SequenceEntry)

    @property
    def has_frozen_encoder(self) -> bool:
        """Whether `backbone` is an encoder that stays as it is: of a probe, or of a sequence network with frames."""
        return (self.is_probe or self.is_sequence) and self.backbone is not None

    @property
    def listens(self) -> bool:
        """Whether this is a probe on an encoder of sound (`mien.runtime.sound_encoders`)."""
        return self.is_probe and is_sound_backbone(self.backbone)

    @property
    def needs(self) -> frozenset[str]:
        """Of `video` and `audio`, what a clip has to have for this model; nothing where it goes on without either."""
        entry = MODELS[self.name]
        if isinstance(entry, SequenceEntry):
            return frozenset(entry.modalities) & {"video", "audio"} if len(entry.modalities) == 1 else frozenset()
        return frozenset({"audio" if self.listens else "video"})

    @property
    def seeing(self) -> frozenset[str]:
        """`video` where it looks at frames: some recording has to have a picture, though not every one."""
        looks = not self.listens and "video" in MODELS[self.name].modalities
        return frozenset({"video"} if looks else ())

    @property
    def full_name(self) -> str:
        """Name with everything that a default may have filled in.

        >>> parse_model("linear_probe", default_baseline="recording").full_name, parse_model("improved_cnn").full_name
        ('linear_probe@hog+recording', 'improved_cnn+none')
        """
        backbone = "" if self.backbone is None else f"@{self.backbone}"
        return f"{self.name}{backbone}+{self.baseline}"

    @property
    def label(self) -> str:
        """Short name for charts: paths lose their folders."""
        backbone = "" if self.backbone is None else "@" + Path(self.backbone).name.removesuffix(".onnx")
        baseline = "" if self.baseline.kind == "none" else f"+{self.baseline}"
        return f"{self.name}{backbone}{baseline}"


def parse_model(text: str, *, default_baseline: str = "none") -> ModelChoice:
    """Read one model.

    Args:
        text: Such as `vit_scratch`, `linear_probe@hog+recording` or `vit_pretrained@path/to/weights`.
        default_baseline: The personal baseline where the text names none.

    Raises:
        UserError: A name that isn't known, or a text that can't be read.
    """
    match = _CHOICE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"Can't read model {text!r}. Write NAME, NAME@BACKBONE or NAME@BACKBONE+BASELINE.")
    name = match["name"]
    if name not in MODELS:
        raise unknown_name("model", got=name, allowed=MODELS, hint="`mien models` says what each is.")
    entry = MODELS[name]
    if isinstance(entry, SequenceEntry):
        return _parse_sequence(text, entry, match=match, default_baseline=default_baseline)
    backbone = match["backbone"] or ("hog" if name == PROBE else None)
    if backbone is not None and name != PROBE and not entry.pretrained:
        raise UserError(f"{name} is trained from scratch and takes no @BACKBONE (got {backbone!r}).")
    baseline = PersonalBaseline.parse(match["baseline"] or default_baseline)
    if name != PROBE and baseline.kind not in ("none", "recording"):
        raise UserError(
            f"{text!r}: networks trained end to end take the baselines none and recording; got {baseline}. "
            f"linear_probe takes all of them."
        )
    return ModelChoice(text=text.strip(), name=name, backbone=backbone, baseline=baseline)


def _parse_sequence(text: str, entry: SequenceEntry, *, match: re.Match[str], default_baseline: str) -> ModelChoice:
    """Read a sequence network: one that looks at frames takes what the probe takes, any other takes nothing."""
    if entry.needs_encoder:
        baseline = PersonalBaseline.parse(match["baseline"] or default_baseline)
        return ModelChoice(text.strip(), entry.name, backbone=match["backbone"] or "hog", baseline=baseline)
    if match["backbone"] or match["baseline"] not in (None, "none"):
        raise UserError(
            f"{text!r}: {entry.name} looks at no frames, so it takes neither @BACKBONE nor +BASELINE (sound and "
            f"signals are on the scale of their own recording anyway). Write {entry.name}."
        )
    return ModelChoice(text.strip(), entry.name, backbone=None, baseline=PersonalBaseline())


def needs_of(choices: Sequence[ModelChoice]) -> frozenset[str]:
    """Return what a clip has to have so that all models can be scored on it."""
    nothing: frozenset[str] = frozenset()
    return nothing.union(*(choice.needs for choice in choices))


def parse_models(text: str | Sequence[str], *, default_baseline: str = "none") -> list[ModelChoice]:
    """Read a comma-separated list of models.

    Raises:
        UserError: No model, the same model twice, or one that can't be read.
    """
    items = text.split(",") if isinstance(text, str) else list(text)
    choices = [parse_model(item, default_baseline=default_baseline) for item in items if item.strip()]
    if not choices:
        raise UserError(f"No model given. Known: {', '.join(MODELS)}.")
    names = [(choice.name, choice.backbone, choice.baseline) for choice in choices]
    for choice, name in zip(choices, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"Model {choice.text!r} is given more than once.")
    return choices

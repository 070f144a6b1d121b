"""The methods by name: what each map means, which models allow it, and which is the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.explain import gradients
from mien.explain.frames import ExplainedFrame, Subject
from mien.explain.occlusion import occlusion_maps
from mien.explain.subjects import NetworkSubject

Family = Literal["probe", "convolutional", "transformer", "network"]
"""`network` is one whose entry doesn't say where its maps are: it has what every model has."""

WHERE_IT_LOOKS = "where the encoder looks (doesn't depend on the trained head)"


@dataclass(frozen=True)
class Method:
    """One way to make maps.

    Attributes:
        name: Name of the option.
        title: Name for people, with its source.
        class_specific: Whether the map is about the model's answer; else it is about the encoder alone.
        signed: Whether negative values mean something (what speaks against the answer).
        families: Which models allow it.
    """

    name: str
    title: str
    class_specific: bool
    signed: bool
    families: tuple[Family, ...]

    def caption(self, answer: str | None = None) -> str:
        """Say what a map shows; `answer` is the class that is explained, None where several are."""
        if not self.class_specific:
            return f"{self.title}: {WHERE_IT_LOOKS}"
        what = "the answer" if answer is None else repr(answer)
        return f"{self.title}: what speaks for {what}" + (", and what against it" if self.signed else "")


METHODS = {
    method.name: method
    for method in (
        Method("attention", "Attention, mean over heads", False, False, ("transformer",)),
        Method("rollout", "Attention rollout", False, False, ("transformer",)),
        Method("gradient_attention", "Gradient x attention", True, False, ("transformer",)),
        Method("grad_cam", "Grad-CAM", True, False, ("convolutional", "transformer")),
        Method("hires_cam", "HiResCAM", True, False, ("convolutional", "transformer")),
        Method("occlusion", "Occlusion", True, True, ("probe", "convolutional", "transformer", "network")),
    )
}
DEFAULTS: dict[Family, str] = {
    "probe": "occlusion",
    # On averaged maps (ResNet) it is Grad-CAM but for a factor. `improved_cnn` weighs each place differently:
    # on 12 people of the smile study its Grad-CAM deleted worse than the centred Gaussian did (gain -.18 [-.28, -.09]),
    # HiResCAM better (.46 [.43, .48]).
    "convolutional": "hires_cam",
    "transformer": "gradient_attention",
    "network": "occlusion",
}


def family_of(subject: NetworkSubject | None) -> Family:
    """Return the family of a model; None stands for a probe, which has no network."""
    if subject is None:
        return "probe"
    if subject.parts is None:
        return "network"
    return "transformer" if subject.parts.attentions else "convolutional"


def choose_method(name: str | None, *, family: Family, model: str) -> Method:
    """Return the method of that name, the family's default for None.

    Args:
        name: What the user wrote.
        family: Of the model.
        model: Name of the model, for the message.

    Raises:
        UserError: A method that isn't known or that the model doesn't allow; it says which are allowed.
    """
    chosen = DEFAULTS[family] if name is None else name.replace("-", "_")
    allowed = [method.name for method in METHODS.values() if family in method.families]
    if chosen in allowed:
        return METHODS[chosen]
    if chosen in METHODS:
        kinds = {
            "probe": "a linear probe on a frozen encoder",
            "network": "a network whose entry in the registry has no `maps`",
        }
        came = f"--method {chosen} doesn't fit {model}, {kinds.get(family, f'a {family} network')}"
    else:
        came = f"Unknown method {chosen!r}"
    raise UserError(f"{came}. Allowed: {', '.join(allowed)} (default: {DEFAULTS[family]}).")


def make_maps(
    method: Method,
    subject: Subject,
    frames: Sequence[ExplainedFrame],
    *,
    scheme: LabelScheme,
    layer: int | None = None,
) -> NDArray[np.float64]:
    """Return maps (N, g, g) of frames on the method's own grid.

    Args:
        method: Which.
        subject: What is explained; for all methods but occlusion a network.
        frames: The frames.
        scheme: The target's classes.
        layer: Layer of `attention`; None for the last.

    Raises:
        UserError: A layer that isn't there, or a layer for a method that has none.
    """
    if layer is not None and method.name != "attention":
        raise UserError(f"--layer is for --method attention; {method.name} takes all layers, or a fixed one.")
    if method.name == "occlusion":
        return occlusion_maps(subject, frames, scheme=scheme)
    assert isinstance(subject, NetworkSubject), "choose_method allows only occlusion to others"
    if method.name == "attention":
        return gradients.attention_maps(subject, frames, layer=layer)
    if method.name == "rollout":
        return gradients.rollout_maps(subject, frames)
    with_gradients = {
        "gradient_attention": gradients.gradient_attention_maps,
        "grad_cam": gradients.grad_cam_maps,
        "hires_cam": gradients.hires_cam_maps,
    }
    return with_gradients[method.name](subject, frames, scheme=scheme)

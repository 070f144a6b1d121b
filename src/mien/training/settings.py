"""How models are fitted: one file of settings, with overrides per model; unknown keys are errors.

```yaml
training: {image_size: 112, patience: 4}
probe: {C: 0.001}
models:
  improved_cnn: {image_size: 64, epochs: 8}
  multimodal_fusion: {fusion: gated, sequence_length: 9}
```
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.core.config import build_config, load_yaml_mapping
from mien.core.errors import UserError, unknown_name
from mien.evaluation.probe import ProbeConfig
from mien.models.choice import PROBE
from mien.models.classifier import ModelEntry
from mien.models.registry import MODELS
from mien.models.sequence_parts import SequenceEntry
from mien.training.config import TrainConfig
from mien.training.sequence_config import SequenceConfig


@dataclass(frozen=True)
class FitSettings:
    """Settings of every model of a comparison.

    Attributes:
        training: Settings of the networks.
        probe: Settings of the linear probe.
        per_model: Changes to `training` for single models, by name in the registry; for sequence networks, changes to
            the defaults of `SequenceConfig`.
        epochs: Cap on the epochs of each phase, None for none.
        random_init: Whether pretrained architectures start from random weights.
    """

    training: TrainConfig = field(default_factory=TrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    per_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    epochs: int | None = None
    random_init: bool = False

    def for_model(self, name: str) -> TrainConfig:
        """Return the settings of one network."""
        merged = {**dataclasses.asdict(self.training), **self.per_model.get(name, {})}
        config = build_config(TrainConfig, merged, where=f"settings of {name}")
        if self.epochs is None:
            return config
        return dataclasses.replace(
            config, epochs=min(config.epochs, self.epochs), head_epochs=min(config.head_epochs, self.epochs)
        )

    def for_sequence(self, name: str) -> SequenceConfig:
        """Return the settings of one sequence network: its defaults with the changes of `models`, and the cap."""
        config = build_config(SequenceConfig, self.per_model.get(name, {}), where=f"settings of {name}")
        return config if self.epochs is None else dataclasses.replace(config, epochs=min(config.epochs, self.epochs))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON-able mapping."""
        return dataclasses.asdict(self)


def load_settings(path: Path | None, *, epochs: int | None = None, random_init: bool = False) -> FitSettings:
    """Read a settings file, and put the options of the command line over it.

    Args:
        path: YAML file, None for the defaults.
        epochs: Cap on the epochs of each phase.
        random_init: Whether pretrained architectures start from random weights.

    Raises:
        UserError: An unknown key or model, or a value of another type than expected.
    """
    if epochs is not None and epochs < 1:
        raise UserError(f"epochs must be at least 1, got {epochs}.")
    values = load_yaml_mapping(path) if path else {}
    allowed = ("training", "probe", "models")
    for key in values:
        if key not in allowed:
            raise unknown_name(f"key in {path}", got=str(key), allowed=allowed)
        if not isinstance(values[key], dict):
            raise UserError(f"{path}: {key} must hold 'key: value' lines, got {values[key]!r}.")
    per_model = values.get("models", {})
    configs = {name: _config_of(entry) for name, entry in MODELS.items() if name != PROBE}
    for name, changes in per_model.items():
        if name not in configs:
            raise unknown_name(f"model in {path}", got=str(name), allowed=configs)
        if not isinstance(changes, dict | None):
            raise UserError(f"{path}: models: {name} must hold 'key: value' lines, got {changes!r}.")
        build_config(configs[name], changes or {}, where=f"{path}: models: {name}")
    return FitSettings(
        training=build_config(TrainConfig, values.get("training", {}), where=f"{path}: training"),
        probe=build_config(ProbeConfig, values.get("probe", {}), where=f"{path}: probe"),
        per_model={name: dict(changes or {}) for name, changes in per_model.items()},
        epochs=epochs,
        random_init=random_init,
    )


def _config_of(entry: ModelEntry) -> type[TrainConfig] | type[SequenceConfig]:
    return SequenceConfig if isinstance(entry, SequenceEntry) else TrainConfig

"""What is random in an epoch of a sequence network: which clips, which modality is missing, which windows are mixed.

All of it is drawn from the seed and the numbers of epoch and batch, never from what was drawn before: a killed fit goes
on with the same draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.core.labels import LabelScheme
from mien.runtime.material import is_labelled, labels_of
from mien.runtime.windows import AUDIO, INPUTS, SIGNALS, VIDEO
from mien.training.balanced import draw_evenly
from mien.training.lightning_module import DROPOUT, MIXUP, epoch_seed
from mien.training.loaders import participant_weights
from mien.training.mixup import Mixture
from mien.training.sequence_batches import Rows, WindowSet
from mien.training.sequence_config import SequenceConfig

# What an epoch's numbers are for, behind those of `mien.training.lightning_module`.
CLIPS, MODALITIES = MIXUP + 1, MIXUP + 2


class RandomClips:
    """Draws the clips of each epoch, in batches of random order.

    So many of every recording; under `sampling: participants` as many in all, but the same number of every participant.
    """

    def __init__(self, windows: WindowSet, *, config: SequenceConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.balanced = config.sampling == "participants"
        column = "participant_id" if self.balanced else "recording_id"
        groups = windows.clips.groupby(column, sort=True).indices.values()
        self.groups = [np.asarray(rows, np.int64) for rows in groups]
        num_recordings = windows.clips["recording_id"].nunique()
        self.share = max(1, round(config.clips_per_recording * num_recordings / max(1, len(self.groups))))

    def epoch(self, number: int) -> list[Rows]:
        """Return the batches of an epoch."""
        generator = np.random.default_rng([self.seed, number, CLIPS])
        order = generator.permutation(np.concatenate([self._draw(rows, generator=generator) for rows in self.groups]))
        size = self.config.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def begin(self, epoch: int) -> None:
        """Make dropout depend on the number of the epoch alone."""
        torch.manual_seed(epoch_seed(self.seed, epoch, DROPOUT))

    def drop_modalities(
        self, inputs: Mapping[str, Tensor], *, modalities: Sequence[str], epoch: int, batch: int
    ) -> dict[str, Tensor]:
        """Mask out one whole modality of some windows, never the only one (Neverova et al. 2016, ModDrop)."""
        num = len(next(iter(inputs.values())))
        if len(modalities) < 2:
            return dict(inputs)
        generator = np.random.default_rng([self.seed, epoch, MODALITIES, batch])
        loses = generator.random(num) < self.config.modality_dropout
        lost = generator.integers(len(modalities), size=num)
        masks = {VIDEO: "frame_mask", AUDIO: "audio_mask", SIGNALS: "signals_mask"}
        present = np.stack([inputs[masks[name]].amax(dim=1).numpy() > 0 for name in modalities], axis=1)
        several = present.sum(axis=1) > 1
        dropped = dict(inputs)
        for number, name in enumerate(modalities):
            keep = torch.from_numpy(~(loses & (lost == number) & several).astype(bool)).float()
            if bool(keep.all()):
                continue
            for key in (masks[name], {VIDEO: "features"}.get(name, name)):
                values = inputs[key]
                dropped[key] = values * keep.reshape(-1, *[1] * (values.ndim - 1))
        return dropped

    def mixture(
        self, inputs: Mapping[str, Tensor], *, modalities: Sequence[str], targets: Tensor, epoch: int, batch: int
    ) -> Mixture | None:
        """Draw which windows are mixed; None without mixup. Windows that have nothing in common stay themselves."""
        if not self.config.mixup:
            return None
        seed = epoch_seed(self.seed, epoch, MIXUP, batch)
        drawn = Mixture.draw(targets, alpha=self.config.mixup, seed=seed)
        common = torch.zeros(len(targets), dtype=torch.bool)
        for modality in modalities:
            mask = inputs[INPUTS[modality][1]]
            common |= torch.minimum(mask, mask[drawn.partners]).amax(dim=1) > 0
        return dataclasses.replace(drawn, partners=torch.where(common, drawn.partners, torch.arange(len(targets))))

    def weights_of(self, windows: WindowSet, *, scheme: LabelScheme) -> NDArray[np.float32]:
        """Return weights (N,) of training clips: participants that are drawn equally often are weighted equally."""
        if not self.balanced:
            return clip_weights(windows, scheme=scheme)
        return is_labelled(labels_of(windows.clips, scheme=scheme)).astype(np.float32)

    def _draw(self, rows: Rows, *, generator: np.random.Generator) -> Rows:
        if self.balanced:
            return draw_evenly(rows, num=self.share, generator=generator)
        return generator.choice(rows, size=min(len(rows), self.config.clips_per_recording), replace=False)


def mix_windows(inputs: Mapping[str, Tensor], *, modalities: Sequence[str], mixture: Mixture) -> dict[str, Tensor]:
    """Return windows mixed with their partners; what one of the two lacks, the mixture lacks."""
    mixed: dict[str, Tensor] = {}
    for modality in modalities:
        values, mask = INPUTS[modality]
        mixed[mask] = torch.minimum(inputs[mask], inputs[mask][mixture.partners])
        mixed[values] = mixture.mix(inputs[values]) * mixed[mask][:, :, None]
    return mixed


def clip_weights(windows: WindowSet, *, scheme: LabelScheme) -> NDArray[np.float32]:
    """Return weights (N,) under which every participant counts the same."""
    frames = windows.frame_set(scheme)
    return participant_weights(frames.participants, targets=frames.targets)

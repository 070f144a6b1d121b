"""About how long fits take here: one step of each model is timed on blank pictures, and multiplied."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.models.choice import ModelChoice
from mien.models.registry import build_model, build_sequence_network, find_sequence_entry
from mien.models.sequence_parts import HeadShape, example_inputs
from mien.runtime.sound import RATE_HZ
from mien.runtime.sound_encoders import GRID_STEP_S, SoundEncoder
from mien.training.checks import open_encoder, open_listener, open_picture_encoder
from mien.training.sequence_batches import THINNED_CLIPS, window_spec
from mien.training.settings import FitSettings

Estimate = dict[str, Any]

TRIAL_BATCH = 8
PROBE_FIT_S = 2.0  # a logistic regression of some thousand clips; seconds either way don't change a plan


def estimate_fits(
    choices: Sequence[ModelChoice],
    *,
    dataset: Dataset,
    clips: ClipIndex,
    splits: Sequence[Split],
    settings: FitSettings,
) -> Estimate:
    """Estimate the time of all fits.

    Args:
        choices: The models.
        dataset: What they would be fitted on.
        clips: The clips of the target.
        splits: The folds.
        settings: How they would be fitted.

    Returns:
        participants, clips, folds, fits, minutes (at most: early stopping ends most fits sooner), minutes per model.
    """
    per_model = {
        choice.text: _seconds(choice, dataset=dataset, clips=clips, splits=splits, settings=settings) / 60
        for choice in choices
    }
    return {
        "dataset": str(dataset.path),
        "target": clips.scheme.target,
        "participants": int(clips.table["participant_id"].nunique()),
        "clips": len(clips.table),
        "folds": len(splits),
        "fits": len(choices) * len(splits),
        "minutes_at_most": round(sum(per_model.values()), 1),
        "minutes_per_model": {name: round(minutes, 1) for name, minutes in per_model.items()},
    }


def _seconds(
    choice: ModelChoice, *, dataset: Dataset, clips: ClipIndex, splits: Sequence[Split], settings: FitSettings
) -> float:
    if choice.is_sequence:
        return _sequence_seconds(choice, dataset=dataset, clips=clips, splits=splits, settings=settings)
    if choice.is_probe:
        # A regression per channel.
        fits_s = PROBE_FIT_S * len(splits) * max(1, len(clips.scheme.channels))
        encoder = open_encoder(choice)
        if isinstance(encoder, SoundEncoder):
            return _listening_s(encoder.windowed(clips.scheme.unit)) * len(clips.table) + fits_s
        blank = np.zeros((TRIAL_BATCH, encoder.spec.size_px, encoder.spec.size_px, 3), np.uint8)
        return _timed(lambda: encoder.encode(blank)) / TRIAL_BATCH * len(clips.table) + fits_s
    config = settings.for_model(choice.name)
    built = build_model(
        choice.name,
        num_outputs=clips.scheme.num_outputs,
        image_size=config.image_size,
        backbone=choice.backbone,
        random_init=settings.random_init,
    )
    pixels = torch.zeros(TRIAL_BATCH, 3, config.image_size, config.image_size)
    built.classifier.train()
    step_s = _timed(lambda: built.classifier(pixels).sum().backward()) / TRIAL_BATCH
    people = clips.table["participant_id"]
    trained = sum(int(people.isin(split.train).sum()) for split in splits)
    # A picture that is only looked at (validation, train loss, test) costs about a third of one that is trained on.
    watched = sum(int((~people.isin(split.train)).sum()) * 2 for split in splits) / 3
    whole = 0 if built.pretrained and config.unfreeze == "head" else config.epochs
    # Features of a frozen backbone are computed once: a look at each picture, whatever the number of epochs.
    head = 0.0 if not built.pretrained else 1 / 3 if config.phase1 == "cached" else config.head_epochs
    return step_s * (whole + head) * (trained + watched)


def _sequence_seconds(
    choice: ModelChoice, *, dataset: Dataset, clips: ClipIndex, splits: Sequence[Split], settings: FitSettings
) -> float:
    entry, config = find_sequence_entry(choice.name), settings.for_sequence(choice.name)
    encoder = open_picture_encoder(choice) if entry.needs_encoder else None
    unit = clips.scheme.unit
    listener = open_listener(choice, settings=settings, unit=unit)
    spec = window_spec(entry, dataset=dataset, config=config, encoder=encoder, listener=listener, unit=unit)
    shape = HeadShape.of(spec, num_outputs=clips.scheme.num_outputs, fusion=config.fusion)
    network = build_sequence_network(choice.name, shape=shape)
    given = example_inputs(spec, num=TRIAL_BATCH).values()
    step_s = _timed(lambda: network(*given).sum().backward()) / TRIAL_BATCH
    encoding_s = 0.0
    if encoder is not None:
        blank = np.zeros((TRIAL_BATCH, encoder.spec.size_px, encoder.spec.size_px, 3), np.uint8)
        encoding_s = _timed(lambda: encoder.encode(blank)) / TRIAL_BATCH * len(clips.table)
    if listener is not None:
        seconds = float((clips.table["end_s"] - clips.table["start_s"]).sum())
        encoding_s += _listening_s(listener) * seconds / GRID_STEP_S
    recordings = clips.table["recording_id"].nunique() * len(splits)
    # An epoch trains on some clips of each recording and measures on others, a third as dear.
    per_epoch = min(config.clips_per_recording + THINNED_CLIPS / 3, len(clips.table))
    return encoding_s + step_s * config.epochs * recordings * per_epoch


def _listening_s(encoder: SoundEncoder) -> float:
    """Return the seconds that a window of noise takes: one of silence might be shorter."""
    noise = np.random.default_rng(0).normal(0.0, 0.1, round(encoder.window_s * RATE_HZ)).astype(np.float32)
    return _timed(lambda: encoder.encode_window(noise))


def _timed(call: Callable[[], Any]) -> float:
    """Return the shortest of three runs, seconds: the others are those that something else slowed down."""
    call()
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return min(durations)

"""The settings of event detection that a bundle carries: chosen on the inner participants of its own fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mien.core.labels import LabelScheme
from mien.core.progress import say
from mien.data.dataset import Dataset
from mien.evaluation.event_truth import event_truth, why_no_truth
from mien.evaluation.event_tuning import tune_events
from mien.evaluation.events import sampling_rate, why_too_few
from mien.training.model_fit import FittedModel


def tuned_events(
    fitted: FittedModel, *, dataset: Dataset, scheme: LabelScheme, participants: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Choose the settings of every output that stands for something that begins and ends.

    Args:
        fitted: The model.
        dataset: What it was fitted on.
        scheme: Its target; each channel of several has its own settings.
        participants: Its inner split.

    Returns:
        By output what `TunedEvents.to_json` says; empty where it isn't sampled often enough or annotated as intervals.
    """
    rate = sampling_rate(dataset.samples)
    targets = {name: name if scheme.kind == "multilabel" else scheme.target for name in scheme.output_names}
    reasons = {name: why_too_few(rate) or why_no_truth(dataset, target) for name, target in targets.items()}
    for reason in dict.fromkeys(reason for reason in reasons.values() if reason is not None):
        say(f"The bundle gets no settings of events. {reason}")
    wanted = {name: targets[name] for name, reason in reasons.items() if reason is None}
    if not wanted:
        return {}
    rows, logits = fitted.predict_inner(participants)
    columns = [f"prob_{name}" for name in scheme.output_names]
    probabilities = pd.DataFrame(scheme.probabilities(logits), columns=columns, index=rows.index)
    inner = rows[["recording_id", "participant_id", "start_s", "end_s"]].join(probabilities)
    tuned = {
        name: tune_events(inner, event_truth(dataset, target), column=f"prob_{name}", samples_per_s=rate)
        for name, target in wanted.items()
    }
    for name, found in tuned.items():
        if found.note:
            say(f"Events of {name} keep the default settings: {found.note}.")
    return {name: found.to_json() for name, found in tuned.items()}

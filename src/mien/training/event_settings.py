"""The settings of event detection that a bundle carries: chosen on the inner participants of its own fit."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mien.core.labels import LabelScheme
from mien.core.progress import say
from mien.data.dataset import Dataset
from mien.evaluation.event_margins import COVERAGE, MIN_PEOPLE
from mien.evaluation.event_truth import event_truth, why_no_truth
from mien.evaluation.event_tuning import tune_events
from mien.evaluation.events import sampling_rate, why_too_few
from mien.training.inner_answers import InnerAnswers


def tuned_events(inner: InnerAnswers, *, dataset: Dataset, scheme: LabelScheme) -> dict[str, dict[str, Any]]:
    """Choose the settings of every output that stands for something that begins and ends.

    Args:
        inner: What the model says of its inner split.
        dataset: What it was fitted on.
        scheme: Its target; each channel of several has its own settings.

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
    rows, logits = inner.get()
    columns = [f"prob_{name}" for name in scheme.output_names]
    probabilities = pd.DataFrame(scheme.probabilities(logits), columns=columns, index=rows.index)
    answers = rows[["recording_id", "participant_id", "start_s", "end_s"]].join(probabilities)
    tuned = {
        name: tune_events(answers, event_truth(dataset, target), column=f"prob_{name}", samples_per_s=rate)
        for name, target in wanted.items()
    }
    for name, found in tuned.items():
        if found.note:
            say(f"Events of {name} keep the default settings: {found.note}.")
        elif found.edge_coverage < COVERAGE:
            say(
                f"Ranges of the edges of {name} promise {100 * found.edge_coverage:.0f} %, not {100 * COVERAGE:.0f} %: "
                f"events of {found.edge_participants} inner people were found, and {MIN_PEOPLE} are needed."
            )
    return {name: found.to_json() for name, found in tuned.items()}

"""The model card of a bundle: what the model is, what it was made from, what it must not be used for."""

from __future__ import annotations

from typing import Any

from mien.core.labels import annotated_by
from mien.core.numbers import with_interval
from mien.data.dataset import NOT_STATED
from mien.runtime.bundle import ModelSpec

CARD = """# {label}

{target}: expression {annotated_by}. An expression is not a feeling.

| | |
|---|---|
| model | `{name}` |
| {kind} | {classes} |
| input | {fps:g} frames per second, crop `{crop}` {size} px, face detector `{detector}` |
| modalities | {modalities} |
| encoder | {encoder} |
| personal baseline | {baseline} |
| calibrated probabilities | {calibration} |
| events | {events} |
| parameters | {parameters:,} ({trainable:,} trained) |
| weights | {weights} |
| licence of the weights | {licence} |
| study | {study} |
| licence of the data | {data_licence} |
| participants | {participants} |
| seed | {seed} |
| ONNX against PyTorch | largest difference {parity:.2g} in a logit, {clips} clips |

## How good is it?

A bundle is trained on all participants, so nobody is left to score it on. {score}

## What was checked

{audit}

**Not for** inferring what a person feels, nor for decisions about a person in hiring, employment or education.
{synthetic}"""


def model_card(spec: ModelSpec, *, facts: dict[str, Any], parity: dict[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        spec: The bundle's spec.
        facts: What `fit.json` would hold.
        parity: What `parity.json` holds.
    """
    made_of, model = spec.provenance, facts["model_facts"]
    checked, quoted = made_of.get("audit") or {}, made_of.get("comparison")
    synthetic = "\nThe study is synthetic: its labels are true by construction, so nothing here holds for people.\n"
    return CARD.format(
        label=spec.label,
        target=", ".join(spec.labels.channels) or spec.labels.target,
        annotated_by=annotated_by(spec.labels.label_source),
        name=spec.name,
        kind="numbers" if spec.labels.kind == "continuous" else "channels" if spec.labels.channels else "classes",
        classes=_classes(spec),
        fps=spec.sampling.fps,
        crop=spec.sampling.crop,
        size=spec.sampling.size_px,
        detector=spec.sampling.detector,
        modalities=_modalities(spec),
        encoder=_encoder(spec),
        baseline=spec.baseline,
        calibration=_calibration(spec),
        events=_events(spec),
        parameters=model["parameters"],
        trainable=model["trainable_parameters"],
        weights=model.get("weights_note") or model.get("weights_source") or "none",
        licence=spec.weights.get("licence") or "unknown",
        study=made_of.get("study", ""),
        data_licence=made_of.get("data", {}).get("licence", NOT_STATED),
        participants=len(made_of.get("participants", ())),
        seed=made_of.get("seed"),
        parity=parity["max_abs_diff_logit"],
        clips=parity["clips"],
        score=_score(quoted),
        audit=_audit(checked, dropped=made_of.get("dropped_channels") or {}),
        synthetic=synthetic if spec.labels.label_source == "synthetic" else "",
    )


def _classes(spec: ModelSpec) -> str:
    labels = spec.labels
    if not labels.sources:
        return ", ".join(labels.classes)
    # Channels that different people or tools annotated.
    return "; ".join(f"{name} ({annotated_by(labels.source_of(name))})" for name in labels.channels)


def _modalities(spec: ModelSpec) -> str:
    windows = spec.windows
    if windows is None:
        return ", ".join(spec.modalities)
    around = f"{windows.context_s:g} s around each frame"
    given = {
        "video": f"video ({windows.sequence_length} frames)",
        "audio": f"audio ({'log-mel' if spec.sound is None else spec.sound.name}, {around})",
        "signals": f"signals ({', '.join(windows.signal_names)}, {around})",
    }
    return ", ".join(given[name] for name in windows.modalities)


def _events(spec: ModelSpec) -> str:
    if not spec.events:
        return "no settings: sampled too rarely, or what it looks for has no onsets"
    said = []
    for name, own in spec.events.items():
        inner = own["inner"]
        chosen = inner["note"] or f"chosen on {inner['participants']} inner participants"
        edges = ""
        if "edge_coverage" in inner:
            people = inner["edge_participants"]
            edges = f"; ranges of edges hold for {100 * inner['edge_coverage']:.0f} % (fitted on {people} people)"
        said.append(f"{name}: on at {own['on']:g}, off at {own['off']:g} ({chosen}){edges}")
    return "; ".join(said)


def _calibration(spec: ModelSpec) -> str:
    if not spec.calibration:
        return "none: numbers have no probability"
    said = []
    for name, own in spec.calibration.items():
        said.append(f"{name}: {own['note'] or 'fitted on {} inner participants'.format(own['participants'])}")
    return "; ".join(said)


def _encoder(spec: ModelSpec) -> str:
    if spec.encoder is None:
        return "none: it doesn't look at pictures" if spec.sound is None else _listener(spec)
    looks = f"{spec.encoder.name}, {spec.encoder.size_px} px, looks at {spec.encoder.crop:g} x the face box"
    return looks if spec.sound is None else f"{looks}; {_listener(spec)}"


def _listener(spec: ModelSpec) -> str:
    sound = spec.sound
    assert sound is not None and sound.window_s is not None, "a bundle's encoder of sound has its window"
    return f"{sound.name} ({sound.source}), hears {sound.window_s:g} s around each moment"


def _score(quoted: dict[str, Any] | None) -> str:
    if quoted is None:
        return (
            "Its score is the one that `mien compare` gives the same model on participants that it has not seen; "
            "`mien train --run RUN` quotes it here."
        )
    people = f"{quoted['participants']} participants, {quoted['folds']} folds"
    lines = [
        f"`mien compare` scored the same model on people that it had not seen ({people}): balanced accuracy "
        f"{with_interval(quoted['balanced_accuracy'])}.",
        "",
        f"* Verdict: **{quoted['verdict']}**.",
        f"* Permits: {quoted['permitted_claim'] or 'no claim about this model.'}",
        *(f"* {reason}" for reason in quoted["verdict_reasons"]),
        f"* Does not permit: {'; '.join(quoted['not_permitted'])}.",
    ]
    return "\n".join(lines)


def _audit(checked: dict[str, Any], *, dropped: dict[str, list[str]]) -> str:
    if not checked:
        return "Nothing."
    lines = [f"Audit: **{checked['verdict']}**: no tool certifies what a label means."]
    if checked["overrides"]:
        lines.append(f"Overridden by the user: {', '.join(checked['overrides'])}.")
    lines += [f"Asked for and left out: {name}. {' '.join(reasons)}" for name, reasons in dropped.items()]
    lines += ["", "| check | | found |", "|---|---|---|"]
    lines += [f"| {item['title']} | {item['severity']} | {item['detail']} |" for item in checked["checks"]]
    return "\n".join(lines)

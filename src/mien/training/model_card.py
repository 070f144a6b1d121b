"""The model card of a bundle: what the model is, what it was made from, what it must not be used for."""

from __future__ import annotations

from typing import Any

from mien.core.labels import annotated_by
from mien.core.numbers import with_interval
from mien.runtime.bundle import ModelSpec

CARD = """# {label}

{target}: expression {annotated_by}. An expression is not a feeling.

| | |
|---|---|
| model | `{name}` |
| classes | {classes} |
| input | {fps:g} frames per second, crop `{crop}` {size} px, face detector `{detector}` |
| modalities | {modalities} |
| encoder | {encoder} |
| personal baseline | {baseline} |
| parameters | {parameters:,} ({trainable:,} trained) |
| weights | {weights} |
| licence of the weights | {licence} |
| study | {study} |
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
        target=spec.labels.target,
        annotated_by=annotated_by(spec.labels.label_source),
        name=spec.name,
        classes=", ".join(spec.labels.classes),
        fps=spec.sampling.fps,
        crop=spec.sampling.crop,
        size=spec.sampling.size_px,
        detector=spec.sampling.detector,
        modalities=_modalities(spec),
        encoder=_encoder(spec),
        baseline=spec.baseline,
        parameters=model["parameters"],
        trainable=model["trainable_parameters"],
        weights=model.get("weights_note") or model.get("weights_source") or "none",
        licence=spec.weights.get("licence") or "unknown",
        study=made_of.get("study", ""),
        participants=len(made_of.get("participants", ())),
        seed=made_of.get("seed"),
        parity=parity["max_abs_diff_logit"],
        clips=parity["clips"],
        score=_score(quoted),
        audit=_audit(checked),
        synthetic=synthetic if spec.labels.label_source == "synthetic" else "",
    )


def _modalities(spec: ModelSpec) -> str:
    windows = spec.windows
    if windows is None:
        return ", ".join(spec.modalities)
    around = f"{windows.context_s:g} s around each frame"
    given = {
        "video": f"video ({windows.sequence_length} frames)",
        "audio": f"audio (log-mel, {around})",
        "signals": f"signals ({', '.join(windows.signal_names)}, {around})",
    }
    return ", ".join(given[name] for name in windows.modalities)


def _encoder(spec: ModelSpec) -> str:
    if spec.encoder is None:
        return "none: it doesn't look at pictures"
    return f"{spec.encoder.name}, {spec.encoder.size_px} px, looks at {spec.encoder.crop:g} x the face box"


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


def _audit(checked: dict[str, Any]) -> str:
    if not checked:
        return "Nothing."
    lines = [f"Audit: **{checked['verdict']}**: no tool certifies what a label means."]
    if checked["overrides"]:
        lines.append(f"Overridden by the user: {', '.join(checked['overrides'])}.")
    lines += ["", "| check | | found |", "|---|---|---|"]
    lines += [f"| {item['title']} | {item['severity']} | {item['detail']} |" for item in checked["checks"]]
    return "\n".join(lines)

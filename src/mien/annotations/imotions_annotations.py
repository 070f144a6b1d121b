"""Annotations that people made in iMotions, as its API gives them: a JSON list of annotations with their fragments.

Format: the package imotionsApi of iMotions, whose answers name `fragments` with `rangeStart` and `rangeEnd` in ms on
the respondent's recording.
"""

from __future__ import annotations

from pathlib import Path

from mien.annotations.exports import Export, interval_table
from mien.annotations.json_exports import number_of, read_json_export, text_of
from mien.annotations.tables import check_interval
from mien.annotations.tiers import report_points
from mien.core.errors import UserError
from mien.core.types import Problem


def read_imotions_annotations(path: Path) -> Export:
    """Read iMotions annotations.

    Args:
        path: The JSON file.

    Returns:
        Intervals: label = the annotation's name, respondent and stimulus = their ids. A fragment's text is a comment,
        not a value.

    Raises:
        UserError: The file can't be read or isn't a list of annotations with fragments.
    """
    content = read_json_export(path)
    annotations = content if isinstance(content, list) else [content]
    named = [item for item in annotations if isinstance(item, dict) and isinstance(item.get("fragments"), list)]
    if not named:
        raise UserError(f"{path.name} isn't a list of iMotions annotations, each with its name and fragments.")
    rows: list[dict[str, object]] = []
    left_out = len(annotations) - len(named)
    for annotation in named:
        label = text_of(annotation.get("name"))
        for fragment in annotation["fragments"]:
            row = _row(fragment, label=label) if isinstance(fragment, dict) and label else None
            if row is None:
                left_out += 1
            else:
                rows.append(row)
    problems = report_points(path, ((number_of(row["onset_s"]), number_of(row["offset_s"])) for row in rows))
    if left_out:
        reason = f"{left_out} annotations or fragments without name, start or end, left out"
        problems.append(Problem(path.name, "annotations", reason, "Correct them in iMotions and export again."))
    return Export(
        path=path,
        format="iMotions annotations",
        intervals=interval_table(rows),
        labels=tuple(dict.fromkeys(name for item in named if (name := text_of(item.get("name"))))),
        problems=tuple(problems),
    )


def _row(fragment: dict[str, object], *, label: str) -> dict[str, object] | None:
    onset_s, offset_s = (number_of(fragment.get(name)) / 1000 for name in ("rangeStart", "rangeEnd"))
    if check_interval(onset_s, offset_s):
        return None
    return {
        "respondent": text_of(fragment.get("respondent")),
        "stimulus": text_of(fragment.get("stimuli")),
        "label": label,
        "onset_s": onset_s,
        "offset_s": offset_s,
    }

"""Find a study: which layout a folder has, and its recordings and annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from mien.core.errors import UserError, unknown_name
from mien.core.types import MediaChoice, Problem
from mien.data.imotions_study import NAMES as IMOTIONS_NAMES
from mien.data.imotions_study import find_imotions_study, is_imotions
from mien.data.layouts import (
    AUDIO_SUFFIXES,
    VIDEO_SUFFIXES,
    Layout,
    Study,
    StudyFile,
    choose_media,
    list_files,
    read_study_file,
)
from mien.data.plain_study import find_plain_study, is_plain, missing_recordings
from mien.data.pseudonyms import KEY_FILE, make_pseudonyms, people_of, read_pseudonyms, with_pseudonyms
from mien.data.ravdess_study import NAMES as RAVDESS_NAMES
from mien.data.ravdess_study import find_ravdess_study, is_ravdess
from mien.data.votes import coder_names

__all__ = ["Layout", "LayoutChoice", "Problem", "Study", "find_study", "pseudonyms_of"]

LayoutChoice = Literal["auto", "imotions", "plain", "ravdess"]

LOOKED_FOR = (
    f"Looked for a plain study (study.yaml and recordings.csv), iMotions names ({', '.join(IMOTIONS_NAMES)}) "
    f"and RAVDESS names ({RAVDESS_NAMES[0]}), in the folder and all below it"
)


def find_study(
    root: Path, *, layout: LayoutChoice = "auto", media: MediaChoice = "auto", keep_key: bool = True
) -> Study:
    """Find a study's recordings and annotations; nothing is decoded.

    Args:
        root: The study's folder.
        layout: How its files are named; `auto` looks.
        media: Which recordings to use; `auto` takes per participant the camera where there is one, else the screen.
        keep_key: Whether the key of hashed ids is written where the study has none yet.

    Raises:
        UserError: There is no such folder, no recording in it, an unknown layout, a table that can't be read, an
            `annotator` in `study.yaml` who annotated nothing, or hashed ids whose key can't be read or written.
    """
    root = Path(root)
    if media not in get_args(MediaChoice):
        raise unknown_name("media", got=media, allowed=get_args(MediaChoice))
    study, facts = _as_named(root, layout=layout)
    recordings = choose_media(study.recordings, media=media)
    if not recordings:
        raise _no_recordings(study, media=media)
    annotator, licence = (facts.annotator, facts.licence) if facts else ("", "")
    chosen = replace(study, recordings=recordings, annotator=_annotator(study, name=annotator), licence=licence)
    chosen = _restrict(chosen)
    if facts is None or not facts.hash_ids:
        return chosen
    return with_pseudonyms(chosen, found=study.recordings, pseudonyms=make_pseudonyms(root, keep=keep_key))


def pseudonyms_of(root: Path, *, layout: LayoutChoice = "auto") -> Mapping[str, str]:
    """Return which pseudonym stands for which participant, by id; only who has the study and its key can tell.

    Raises:
        UserError: There is no study, or its ids aren't hashed, or not yet.
    """
    root = Path(root)
    study, facts = _as_named(root, layout=layout)
    if facts is None or not facts.hash_ids:
        raise UserError(f"The ids of {root} aren't hashed: study.yaml has no line 'hash_ids: true'.")
    pseudonyms = read_pseudonyms(root)
    if pseudonyms is None:
        raise UserError(f"{root} has no {KEY_FILE} yet; `mien prepare` makes it. Run it first.")
    return people_of(study.recordings, pseudonyms=pseudonyms)


def _as_named(root: Path, *, layout: LayoutChoice) -> tuple[Study, StudyFile | None]:
    """Return all of a study under its own ids, and its `study.yaml`."""
    if layout not in get_args(LayoutChoice):
        raise unknown_name("layout", got=layout, allowed=get_args(LayoutChoice))
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "doesn't exist"
        raise UserError(f"The study {root} {what}. Name the folder that holds the recordings.")
    chosen = detect_layout(root) if layout == "auto" else layout
    facts = read_study_file(root)
    study = {"imotions": find_imotions_study, "plain": find_plain_study, "ravdess": find_ravdess_study}[chosen](
        root, facts=facts
    )
    return study, facts


def detect_layout(root: Path) -> Layout:
    """Return the layout of a folder.

    Raises:
        UserError: Nothing in it has a name that any layout knows.
    """
    if is_plain(root):
        return "plain"
    files = list_files(root, suffixes=VIDEO_SUFFIXES | AUDIO_SUFFIXES)
    if any(is_imotions(path) for path in files if path.suffix.lower() in VIDEO_SUFFIXES):
        return "imotions"
    if any(is_ravdess(path) for path in files):
        return "ravdess"
    if (root / "study.yaml").is_file():
        raise missing_recordings(root)
    names = "its media file has another name" if len(files) == 1 else f"its {len(files)} media files have other names"
    found = names if files else "it holds no media files"
    raise UserError(
        f"No recordings of a study in {root}: {found}. {LOOKED_FOR}. "
        "Rename the files, or list them in a recordings.csv (columns media, participant) beside a study.yaml."
    )


def _no_recordings(study: Study, *, media: MediaChoice) -> UserError:
    cameras = sorted({recording.camera for recording in study.recordings})
    if cameras:
        return UserError(f"{study.root} has no recordings for media {media!r}; it has: {', '.join(cameras)}.")
    first = f" First of {len(study.problems)} problems: {study.problems[0].reason}." if study.problems else ""
    return UserError(f"No recordings in {study.root} as layout {study.layout!r}.{first} {LOOKED_FOR}.")


def _annotator(study: Study, *, name: str) -> str:
    """Return the coder whom `study.yaml` names, as the tables spell them."""
    names = coder_names(study.annotations, study.coded)
    found = next((known for known in names if known.casefold() == name.casefold()), None)
    if name and found is None:
        hint = "Without the line 'annotator: ...' in study.yaml the target is what most coders say."
        raise unknown_name("annotator", got=name, allowed=names, hint=hint)
    return found or ""


def _restrict(study: Study) -> Study:
    """Return the study with the rows of the recordings that are used."""
    used = {recording.recording_id for recording in study.recordings}
    tables = {name: getattr(study, name) for name in ("annotations", "coded", "segments")}
    kept = {name: table[table["recording_id"].isin(used)].reset_index(drop=True) for name, table in tables.items()}
    return replace(study, **kept)

"""Pseudonyms in the place of participant and recording ids (`hash_ids: true` in `study.yaml`).

Without the key nobody can tell who is who, nor try names until one fits: a plain digest of "P01" could be looked up.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from mien.annotations.tables import normalise_id
from mien.core.errors import UserError
from mien.core.types import Problem, Recording
from mien.data.layouts import Study

KEY_FILE = "participants.key"
KEY_BYTES = 32
"""As long as the digest: RFC 2104 advises no less."""

PERSON_DIGITS = 12
RECORDING_DIGITS = 8
"""Within one person. In RAVDESS (306 of each of 24 people) six are alike somewhere with 6 %, eight with 0.03 %."""

_RECORDING_FORM = re.compile(rf"p[0-9a-f]{{{PERSON_DIGITS}}}-[0-9a-f]{{{RECORDING_DIGITS}}}")


@dataclass(frozen=True)
class Pseudonyms:
    """What ids become under one key.

    Attributes:
        key: `KEY_BYTES` random bytes; never shown.
    """

    key: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """By which a dataset knows its key again; of 256 random bits nothing can be told from it."""
        return hashlib.sha256(self.key).hexdigest()[:16]

    def person(self, name: str) -> str:
        """Return the pseudonym of a participant or a group, however it is spelled: `ar_2298` is `AR 2298`."""
        return f"p{self._digest(name)[:PERSON_DIGITS]}"

    def recording(self, recording_id: str, *, participant_id: str) -> str:
        """Return the pseudonym of a recording, which begins with its participant's."""
        return f"{self.person(participant_id)}-{self._digest(recording_id)[:RECORDING_DIGITS]}"

    def _digest(self, name: str) -> str:
        return hmac.new(self.key, _normalised(name).encode(), hashlib.sha256).hexdigest()


def is_pseudonym(recording: str) -> bool:
    """Return whether a text has the form of a recording's pseudonym."""
    return bool(_RECORDING_FORM.fullmatch(recording))


def read_pseudonyms(root: Path) -> Pseudonyms | None:
    """Read a study's key, None where it has none yet.

    Raises:
        UserError: The file can't be read or isn't a key. Another key would be other ids, so none is made in its place.
    """
    path = root / KEY_FILE
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise UserError(f"Can't read {path}: {reason}. The ids of this study are made with it: restore it.") from error
    if not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise UserError(
            f"{path} isn't a key: it holds {len(text)} characters, not {2 * KEY_BYTES} hexadecimal digits. Restore it "
            "from a copy. If it is removed, the study gets other ids, and datasets of before can't be gone on with."
        )
    return Pseudonyms(bytes.fromhex(text))


def make_pseudonyms(root: Path, *, keep: bool = True) -> Pseudonyms:
    """Read a study's key; where it has none yet, make one that only its owner can read.

    Args:
        root: The study's folder.
        keep: Whether a new key is written; one that isn't lasts as long as what is returned.

    Raises:
        UserError: The file there isn't a key, or the folder can't be written to.
    """
    known = read_pseudonyms(root)
    if known is not None:
        return known
    made = Pseudonyms(secrets.token_bytes(KEY_BYTES))
    if not keep:
        return made
    path = root / KEY_FILE
    try:
        # Exclusive: of two processes that start at once, the second takes the key of the first.
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return make_pseudonyms(root)
    except OSError as error:
        raise UserError(
            f"study.yaml says hash_ids, and the key of the ids can't be written to {path}: {error.strerror}. Make "
            f"the folder writable for the first run, or put {2 * KEY_BYTES} random hexadecimal digits into that file."
        ) from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(made.key.hex() + "\n")
    return made


def with_pseudonyms(study: Study, *, found: Iterable[Recording], pseudonyms: Pseudonyms) -> Study:
    """Return a study in which pseudonyms stand for participants, groups and recordings.

    Media paths, and the texts of problems, stay: the lab needs them to find a file.

    Args:
        study: As its files name people.
        found: All recordings that problems may name, also those that aren't used.
        pseudonyms: Of the study's key.

    Raises:
        UserError: Two ids have the same pseudonym.
    """
    every = {item.recording_id: item for item in (*found, *study.recordings)}
    people = people_of(every.values(), pseudonyms=pseudonyms)
    names = {
        name: pseudonyms.recording(name, participant_id=item.participant_id) for name, item in sorted(every.items())
    }
    _refuse_collisions(names)
    _refuse_collisions(people | {item.group: pseudonyms.person(item.group) for item in every.values() if item.group})
    recordings = (_renamed(item, name=names[item.recording_id], pseudonyms=pseudonyms) for item in study.recordings)
    # Who rates themselves is an annotator under their own id.
    raters = {_normalised(name): hidden for name, hidden in people.items()}
    problems = (_told(problem, names=names) for problem in study.problems)
    return replace(
        study,
        recordings=tuple(sorted(recordings, key=lambda item: item.recording_id)),
        annotations=_hidden(study.annotations, names=names, raters=raters),
        coded=_hidden(study.coded, names=names, raters=raters),
        segments=_hidden(study.segments, names=names, raters=raters),
        problems=tuple(problems),
        annotator=raters.get(_normalised(study.annotator), study.annotator),
        signals={names[name]: sources for name, sources in study.signals.items() if name in names},
        ids_key=pseudonyms.fingerprint,
    )


def people_of(recordings: Iterable[Recording], *, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Return the pseudonym of each participant, by id.

    Raises:
        UserError: Two have the same.
    """
    people = {name: pseudonyms.person(name) for name in sorted({item.participant_id for item in recordings})}
    _refuse_collisions(people)
    return people


def _renamed(recording: Recording, *, name: str, pseudonyms: Pseudonyms) -> Recording:
    return replace(
        recording,
        recording_id=name,
        participant_id=pseudonyms.person(recording.participant_id),
        group=pseudonyms.person(recording.group) if recording.group else "",
    )


def _told(problem: Problem, *, names: Mapping[str, str]) -> Problem:
    return replace(problem, recording=names.get(problem.recording, problem.recording))


def _hidden(table: pd.DataFrame, *, names: Mapping[str, str], raters: Mapping[str, str]) -> pd.DataFrame:
    """Return a table under pseudonyms, in their order: that of the ids would tell who comes first in the alphabet."""
    table = table.assign(recording_id=table["recording_id"].map(names).astype("object"))
    if "annotator" in table:
        known = table["annotator"].map(lambda name: raters.get(_normalised(str(name)), name))
        table = table.assign(annotator=known.astype(table["annotator"].dtype))
    return table.sort_values("recording_id", kind="stable").reset_index(drop=True)


def _normalised(name: str) -> str:
    return normalise_id(name).casefold()


def _refuse_collisions(hidden_by_name: Mapping[str, str]) -> None:
    names: dict[str, str] = {}
    for name, hidden in hidden_by_name.items():
        other = names.setdefault(hidden, name)
        # Other spellings of one id are one id.
        if _normalised(other) != _normalised(name):
            raise UserError(
                f"{other!r} and {name!r} have the same pseudonym, {hidden}, by chance. Rename one of them; or remove "
                f"{KEY_FILE} and prepare into a new dataset, then all ids are others."
            )

"""Copies of one person declared to be several: photometric copies, mirror images, other cuts, or the same file twice.

Twenty frames and four recoloured copies of them once passed for five participants with an accuracy of 100 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.audit.aligned import MIN_EYE_DISTANCE_PX, Aligned, aligned_recording
from mien.audit.check import Check, Severity
from mien.audit.identity import connected
from mien.audit.matching import Gallery, Matcher
from mien.audit.sound_copies import sound_matches
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset

MIN_ZNCC = 0.85
"""From EVALUATION.md section 2, held after registration. In the middle between the likest of 72 different
people of the smile study (.79) and the lowest of their copies (.90)."""

MIN_SHARE = 0.05
"""Share of a participant's queries that must be copies: one odd frame (a stimulus, a colleague passing) is none."""

NUM_QUERIES = 60
"""Frames per participant that are looked for among all frames of all others. 5 % of them are 3."""

MAX_EVIDENCE = 40
"""Pairs of frames that are listed for the page."""


@dataclass(frozen=True)
class Sounds:
    """What comparing sounds found: pairs of recordings (`sound_matches`), and how many participants were compared."""

    pairs: pd.DataFrame
    num_people: int


MATCH_COLUMNS = tuple(f"{what}_{side}" for side in "ab" for what in ("participant", "recording", "frame", "pts_s"))


@dataclass(frozen=True)
class CopyResult:
    """What looking for copies found.

    Attributes:
        check: The check `copies`.
        merged: Sets of participants that count as one from here on, each sorted.
        pairs: `MATCH_COLUMNS`, zncc, mirrored, kind: each query frame (a) with its best match in another participant
            (b). Matches of whole pictures (kind `picture`) are among them and merge nobody.
        same_media: Recordings (recording_a, recording_b) of different participants whose files are the same.
    """

    check: Check
    merged: tuple[tuple[str, ...], ...]
    pairs: pd.DataFrame
    same_media: pd.DataFrame


def check_copies(dataset: Dataset, people: pd.DataFrame | None = None, *, seed: int) -> CopyResult:
    """Look for participants that are copies of each other.

    Of each participant `NUM_QUERIES` frames, drawn evenly over their time, are compared with all frames of all others:
    aligned faces, also mirrored, by their registered zero-mean normalised cross-correlation. Participants are merged
    where `MIN_SHARE` of either one's queries reach `MIN_ZNCC` in the other, or where they share a media file.

    Args:
        dataset: A prepared study.
        people: Columns recording_id and participant_id, such as a clip index's table; None for all recordings.
        seed: Decides which frames are queries.
    """
    table = dataset.recordings if people is None else people
    owners = table[["recording_id", "participant_id"]].drop_duplicates().sort_values(["participant_id", "recording_id"])
    named = list(owners.itertuples(index=False, name=None))
    aligned = [(str(person), aligned_recording(dataset, str(recording))) for recording, person in named]
    found = [(person, part) for person, part in aligned if part is not None and len(part.frames)]
    kinds: tuple[Literal["face", "picture"], ...] = ("face", "picture")
    searched = {kind: _search([(p, a) for p, a in found if a.kind == kind], kind=kind, seed=seed) for kind in kinds}
    pairs = pd.concat([matches for matches, _ in searched.values()], ignore_index=True)
    shares = {kind: _shares(matches, queries) for kind, (matches, queries) in searched.items()}
    same_media = _same_media(dataset, owners)
    sounds, num_heard = sound_matches(dataset, [(str(person), str(recording)) for recording, person in named])
    links = [(str(row["a"]), str(row["b"])) for row in shares["face"] if _is_copy(row)]
    for table in (same_media, sounds):
        links += [(str(a), str(b)) for a, b in table[["participant_a", "participant_b"]].itertuples(index=False)]
    merged = connected(links)
    compared = {person for person, _ in found}
    small = {person for person, part in aligned if part is not None and part.kind == "small"} - compared
    check = _check(
        merged=merged,
        shares=shares,
        pairs=pairs,
        same_media=same_media,
        num_people={kind: len(queries) for kind, (_, queries) in searched.items()},
        num_small=len(small),
        sounds=Sounds(sounds, num_heard),
    )
    return CopyResult(check=check, merged=merged, pairs=pairs, same_media=same_media)


def _search(
    parts: Sequence[tuple[str, Aligned]], *, kind: Literal["face", "picture"], seed: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the matches, and how many queries each participant has."""
    people = sorted({person for person, _ in parts})
    held = {person: [part for name, part in parts if name == person] for person in people}
    galleries = {person: Gallery([(a.pixels, a.frames) for a in held[person]]) for person in people}
    asked = {person: _spread(len(gallery), seed=[seed, n]) for n, (person, gallery) in enumerate(galleries.items())}
    columns = [*MATCH_COLUMNS, "zncc", "mirrored", "kind"]
    if not people:
        return pd.DataFrame(columns=columns), {}
    queries = np.concatenate([galleries[person].take(items) for person, items in asked.items()])
    owners = np.repeat(np.arange(len(people)), [len(items) for items in asked.values()])
    items_of_queries = np.concatenate(list(asked.values()))
    matcher = Matcher(queries, owners=owners, threshold=MIN_ZNCC)
    rows = []
    for match in matcher.find([galleries[person] for person in people]):
        asker, person = people[owners[match.query]], people[match.gallery]
        a = _place(asker, held[asker], int(items_of_queries[match.query]))
        b = _place(person, held[person], match.item)
        rows.append((*a, *b, match.zncc, match.mirrored, kind))
    return pd.DataFrame(rows, columns=columns), {person: len(items) for person, items in asked.items()}


def _spread(count: int, *, seed: Sequence[int]) -> NDArray[np.int64]:
    """Draw one of each of `NUM_QUERIES` equal stretches of 0 .. count - 1; all where there are fewer."""
    if count <= NUM_QUERIES:
        return np.arange(count)
    edges = np.linspace(0, count, NUM_QUERIES + 1).astype(np.int64)
    return np.asarray(np.random.default_rng(list(seed)).integers(edges[:-1], edges[1:]), np.int64)


def _place(person: str, parts: Sequence[Aligned], item: int) -> tuple[str, str, int, float]:
    for part in parts:
        if item < len(part.frames):
            return person, part.recording_id, int(part.frames[item]), float(part.pts_s[item])
        item -= len(part.frames)
    raise AssertionError("an item lies in one of its participant's recordings")


def _shares(matches: pd.DataFrame, queries: dict[str, int]) -> list[dict[str, Any]]:
    """Return for each two participants with a match which share of either's queries match the other.

    One frame of a colleague in somebody's recording can match half of the colleague's own. So several queries that
    match the same frame count once, unless the other's queries match as often (stills, whose frames are all the same).
    """
    sides = matches[["participant_a", "participant_b"]].astype(str)
    every = Counter(sides.itertuples(index=False, name=None))
    met = matches.drop_duplicates(["participant_a", "participant_b", "recording_b", "frame_b"])
    distinct = Counter(met[["participant_a", "participant_b"]].astype(str).itertuples(index=False, name=None))

    def share(a: str, b: str) -> float:
        mutual = min(every[a, b] / queries[a], every[b, a] / queries[b])
        return max(distinct[a, b] / queries[a], mutual)

    pairs = sorted({(min(pair), max(pair)) for pair in every})
    return [{"a": a, "b": b, "share_of_a": share(a, b), "share_of_b": share(b, a)} for a, b in pairs]


def _is_copy(row: dict[str, Any]) -> bool:
    return float(max(row["share_of_a"], row["share_of_b"])) >= MIN_SHARE


def _same_media(dataset: Dataset, owners: pd.DataFrame) -> pd.DataFrame:
    table = owners.merge(dataset.recordings[["recording_id", "sha256"]], on="recording_id")
    table = table.rename(columns={"recording_id": "recording", "participant_id": "participant"})
    both = table.merge(table, on="sha256", suffixes=("_a", "_b"))
    both = both[both["participant_a"] < both["participant_b"]]
    return both[["participant_a", "recording_a", "participant_b", "recording_b", "sha256"]].reset_index(drop=True)


def _check(
    *,
    merged: tuple[tuple[str, ...], ...],
    shares: dict[Literal["face", "picture"], list[dict[str, Any]]],
    pairs: pd.DataFrame,
    same_media: pd.DataFrame,
    num_people: dict[Literal["face", "picture"], int],
    num_small: int,
    sounds: Sounds,
) -> Check:
    copies = {kind: [row for row in rows if _is_copy(row)] for kind, rows in shares.items()}
    severity: Severity = "fail" if merged else "warn" if copies["picture"] else "ok"
    if severity == "ok" and (num_small or not any([*num_people.values(), sounds.num_people])):
        severity = "not checked"
    shown = [*copies["face"], *copies["picture"]]
    return Check(
        "copies",
        severity,
        measured={
            "pairs": len(copies["face"]),
            "same_media": len(same_media),
            "picture_pairs": len(copies["picture"]),
            "sound_pairs": len(sounds.pairs),
            "largest_share": max((max(r["share_of_a"], r["share_of_b"]) for r in shares["face"]), default=0.0),
        },
        threshold={"zncc": MIN_ZNCC, "share": MIN_SHARE},
        detail=_detail(
            merged=merged, shares=shares, copies=copies, same_media=same_media, num_people=num_people, sounds=sounds
        )
        + (_SMALL.format(num_small) if num_small else ""),
        advice=_LARGER if num_small and severity == "not checked" else _ADVICE[severity],
        evidence={"pairs": _evidence(pairs, shown), "shares": shown, "same_media": same_media.to_dict("records")}
        | {"sounds": sounds.pairs.head(MAX_EVIDENCE).to_dict("records")},
    )


_SMALL = (
    " {} participants were not compared: in the stored pictures their faces are too small (eyes nearer than "
    f"{MIN_EYE_DISTANCE_PX:.0f} px)."
)
_LARGER = "Prepare with --crop face or panel, or with a larger --size, so that faces are large enough to compare."

_ADVICE: dict[Severity, str] = {
    "ok": "",
    "fail": "Give all copies of a person one participant id in the study (augmented copies belong into training, not "
    "into the study). Where the matching face is an actor's in a stimulus, prepare the cameras, or --crop panel.",
    "warn": "Look at the pairs: recordings of one room or one stimulus look alike without being copies. Where they "
    "are copies, give them one participant id.",
    "not checked": "No recording has a picture or sound that could be compared; make sure that none is there twice "
    "under other names.",
}


def _detail(
    *,
    merged: tuple[tuple[str, ...], ...],
    shares: dict[Literal["face", "picture"], list[dict[str, Any]]],
    copies: dict[Literal["face", "picture"], list[dict[str, Any]]],
    same_media: pd.DataFrame,
    num_people: dict[Literal["face", "picture"], int],
    sounds: Sounds,
) -> str:
    texts = []
    if merged:
        sets = "; ".join(", ".join(names) for names in merged)
        texts.append(f"Copies of one person under several ids: {sets}. Each set counts as one participant from now on.")
    if len(same_media):
        texts.append(f"{len(same_media)} pairs of recordings of different participants are the same file.")
    if copies["picture"]:
        texts.append(
            f"Whole pictures of {len(copies['picture'])} pairs of participants without a face are alike; nobody is "
            "merged by that."
        )
    few = len(shares["face"]) - len(copies["face"])
    if few:
        texts.append(f"{few} more pairs share less than {100 * MIN_SHARE:g} % of their frames and stay apart.")
    if len(sounds.pairs):
        texts.append(f"{len(sounds.pairs)} pairs of recordings of different participants are the same sound.")
    if sounds.num_people:
        texts.append(f"{sounds.num_people} participants were compared by the sound of recordings without a picture.")
    if not any(num_people.values()) and sounds.num_people:
        return " ".join(texts)
    texts.append(
        f"{num_people['face']} participants were compared by their faces, {num_people['picture']} by whole pictures: "
        f"up to {NUM_QUERIES} frames of each, spread over time, against all frames of all others."
    )
    return " ".join(texts)


def _evidence(pairs: pd.DataFrame, shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the best pair of frames of each two participants that are shown, the likest first."""
    wanted = {(row["a"], row["b"]) for row in shown}
    ordered = pairs.sort_values("zncc", ascending=False, kind="stable")
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in ordered.to_dict("records"):
        key = (min(row["participant_a"], row["participant_b"]), max(row["participant_a"], row["participant_b"]))
        if key in wanted and key not in best:
            ends = {side: {what: row[f"{what}_{side}"] for what in _END} for side in "ab"}
            best[key] = {**ends, "zncc": row["zncc"], "mirrored": row["mirrored"], "kind": row["kind"]}
    return list(best.values())[:MAX_EVIDENCE]


_END = ("participant", "recording", "pts_s", "frame")


def check_contradictory_labels(copies: CopyResult, clips: ClipIndex) -> Check:
    """Compare the targets of matched frames: the same picture with two labels can't be learnt from.

    Args:
        copies: What `check_copies` found; matches of whole pictures don't count.
        clips: The clips of the target, merged or not.
    """
    targets = clips.table.set_index(["recording_id", "frame"])["target"]
    matched = [copies.pairs.loc[copies.pairs["kind"] == "face", ["recording_a", "frame_a", "recording_b", "frame_b"]]]
    for a, b in copies.same_media[["recording_a", "recording_b"]].itertuples(index=False):
        frames = clips.table.loc[clips.table["recording_id"] == a, "frame"].to_numpy()
        matched.append(pd.DataFrame({"recording_a": a, "frame_a": frames, "recording_b": b, "frame_b": frames}))
    # A pair may have been met from either side.
    ends = {
        tuple(sorted([(str(ra), int(fa)), (str(rb), int(fb))]))
        for ra, fa, rb, fb in pd.concat(matched).itertuples(index=False)
    }
    labelled = sorted(pair for pair in ends if all(end in targets.index for end in pair))
    differing = [(a, b) for a, b in labelled if targets[a] != targets[b]]
    classes = clips.scheme.classes
    evidence = [
        {
            side: {"recording": end[0], "frame": end[1], "label": str(classes[int(targets[end])])}
            for side, end in zip("ab", pair, strict=True)
        }
        for pair in differing[:MAX_EVIDENCE]
    ]
    name = clips.scheme.target
    detail = f"{len(differing)} of {len(labelled)} pairs of copied frames that both have a label of {name} disagree."
    return Check(
        "contradictory-labels",
        "fail" if differing else "ok",
        measured=len(differing),
        threshold=0,
        detail=detail if labelled else f"No copied frames of which both have a label of {name}.",
        advice="Correct the labels, or remove the copies: one picture can't be two classes." if differing else "",
        evidence={"pairs": evidence},
    )

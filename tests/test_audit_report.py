"""The page of an audit: whole, self-contained, and without a recognisable face unless it is asked for."""

from __future__ import annotations

import base64
import re
from html import unescape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mien.core.errors import UserError
from mien.core.storage import write_json
from mien.report.audit_report import BLUR_PX, MAX_PAIRS, PICTURE_PX, write_audit_report

SIDE_PX = 96


def check(name: str, severity: str = "ok", **facts: Any) -> dict[str, Any]:
    plain = {"title": name, "measured": None, "threshold": None, "detail": f"About {name}.", "advice": ""}
    return plain | {"name": name, "severity": severity, "evidence": {}} | facts


def pair(number: int, *, zncc: float) -> dict[str, Any]:
    ends = {
        side: {"participant": f"P{side}{number}", "recording": f"r{side}{number}", "pts_s": 1.5, "frame": number}
        for side in "ab"
    }
    return {**ends, "zncc": zncc, "mirrored": number == 1, "kind": "face"}


def audit_facts(*, num_pairs: int = 2) -> dict[str, Any]:
    pairs = [pair(number, zncc=0.86 + 0.005 * number) for number in range(num_pairs)]
    shares = [{"a": "Pa0", "b": "Pb0", "share_of_a": 1.0, "share_of_b": 0.62}]
    score = {
        "name": "nuisances",
        "baseline": "none",
        "balanced_accuracy": {"mean": 0.66, "low": 0.63, "high": 0.69, "n": 9},
    }
    gap = {"features": "hog", "baseline": "recording", "frame_split": 0.9, "participant_split": 0.84}
    labels = [{side: {"recording": f"r{side}0", "frame": 0, "label": f"label {side}"} for side in "ab"}]
    return {
        "verdict": "fail",
        "target": "Smile <b>",
        "label_source": "tool:AFFDEX",
        "participants": 12,
        "merged_participants": [["Pa0", "Pb0"]],
        "overrides": ["nuisances"],
        "checks": [
            check(
                "copies",
                "fail",
                measured={"pairs": num_pairs},
                advice="One id.",
                evidence={"pairs": pairs, "shares": shares},
            ),
            check("contradictory-labels", "fail", advice="Correct them.", evidence={"pairs": labels}),
            check("nuisances", "fail", advice="Record evenly.", evidence={"scores": [score]}),
            check("leakage-gap", evidence={"gaps": [gap]}),
            check("same-person", "not checked", advice="Give an embedder."),
        ],
        "dataset": {"path": "study", "hash": "0f3a"},
        "sampled": "copies: up to 40 frames.",
    }


def face(recording: str, frame: int) -> np.ndarray:
    """A picture with detail that no 12 x 12 picture could hold: noise of single pixels."""
    generator = np.random.default_rng([frame, *recording.encode()])
    return generator.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


def written(folder: Path, facts: dict[str, Any], **options: Any) -> str:
    write_json(folder / "audit.json", facts)
    page = write_audit_report(folder / "audit.json", **options)
    assert page == folder / "audit.html"
    return page.read_text(encoding="utf-8")


def text_of(html: str) -> str:
    plain = re.sub(r"<[^>]*>", " ", html.partition("</style>")[2])
    return unescape(re.sub(r"\s+", " ", plain))


def pictures_of(html: str) -> list[np.ndarray]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', html)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) for data in found]


def fine_detail(picture: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.CV_64F).std())


def test_everything_that_was_found_is_told(tmp_path):
    text = text_of(written(tmp_path, audit_facts(), picture=face))
    for told in (
        "Audit of Smile <b>",
        "FAILED: no model is trained or compared on this",
        "as coded by AFFDEX",
        "Overridden by the user: nuisances.",
        "audit: 1 ok, 0 warn, 3 fail, 1 not checked",
        "Pa0 = Pb0",
        "One id.",
        "100.0 %",
        "62.0 %",
        "Likeness of the faces (ZNCC) .86, mirrored.",
        "label a",
        "One picture, two labels.",
        ".66 [.63, .69]",
        "hog recording .90 .84 +.06",
        "Sampled: copies: up to 40 frames.",
    ):
        assert told in text, told
    assert not re.search(r"\bNone\b|\bnan\b", text)


def test_pairs_are_the_likest_and_few(tmp_path):
    html = written(tmp_path, audit_facts(num_pairs=20), picture=face)
    assert len(pictures_of(html)) == 2 * MAX_PAIRS
    assert f"{MAX_PAIRS} of 21 pairs, the likest first" in text_of(html)
    shown = re.findall(r"<b>Pa(\d+)</b>", html)
    assert shown == [str(number) for number in range(19, 19 - MAX_PAIRS, -1)]


def test_faces_are_blurred_unless_asked_for(tmp_path):
    hidden = pictures_of(written(tmp_path, audit_facts(), picture=face))
    seen = pictures_of(written(tmp_path, audit_facts(), picture=face, blurred=False))
    assert len(hidden) == len(seen) == 6
    assert all(max(picture.shape[:2]) == PICTURE_PX for picture in (*hidden, *seen))
    for blurred, plain in zip(hidden, seen, strict=True):
        # What is left is what fits into so few px: enlarging them again gives nearly the same picture.
        coarse = cv2.resize(blurred, (BLUR_PX, BLUR_PX), interpolation=cv2.INTER_AREA)
        again = cv2.resize(coarse, blurred.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        assert np.abs(again.astype(float) - blurred).mean() < 6
        assert fine_detail(blurred) < 0.05 * fine_detail(plain)


def test_the_page_says_whether_faces_are_on_it(tmp_path):
    assert "so that nobody can be recognised" in text_of(written(tmp_path, audit_facts(), picture=face))
    plain = text_of(written(tmp_path, audit_facts(), picture=face, blurred=False))
    assert "These are faces of participants" in plain
    assert "nobody can be recognised" not in plain


def test_colours_and_shape_of_a_picture_stay(tmp_path):
    def wide(recording: str, frame: int) -> np.ndarray:
        picture = np.zeros((40, 160, 3), np.uint8)
        picture[..., 0] = 200  # red, in RGB
        return picture

    picture = pictures_of(written(tmp_path, audit_facts(num_pairs=1), picture=wide))[0]
    assert picture.shape[:2] == (PICTURE_PX // 4, PICTURE_PX)
    assert picture[..., 2].mean() == pytest.approx(200, abs=6), "BGR"
    assert picture[..., 0].mean() < 10


def test_it_is_one_file_without_requests(tmp_path):
    html = written(tmp_path, audit_facts(), picture=face)
    assert not re.search(r"https?://|<script|@import|url\(", html)
    assert set(re.findall(r'src="(\w+):', html)) == {"data"}
    assert len(html) < 200_000


def test_links_lead_somewhere(tmp_path):
    html = written(tmp_path, audit_facts())
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(re.findall(r'id="([^"]+)"', html))


@pytest.mark.parametrize(("verdict", "heading"), [("pass", "PASSED"), ("warn", "WARNING"), (None, "NOT FINISHED")])
def test_little_is_enough(tmp_path, verdict, heading):
    text = text_of(written(tmp_path, {"verdict": verdict, "checks": [{"name": "clock", "severity": "ok"}]}))
    assert f"{heading}:" in text
    assert "people and clocks only" in text
    assert "Pictures that are copies" not in text


def test_without_pictures_the_pairs_are_still_listed(tmp_path):
    html = written(tmp_path, audit_facts())
    assert "<img" not in html
    assert "No pictures were given." in html
    assert "ra0" in html


def test_no_audit(tmp_path):
    with pytest.raises(UserError, match=r"audit\.json"):
        write_audit_report(tmp_path / "audit.json")

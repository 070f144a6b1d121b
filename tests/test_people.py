"""Who is who through a recording, and who is the participant."""

from dataclasses import replace

import numpy as np
import pytest

from media_fixtures import write_video
from mien.core.errors import UserError
from mien.core.storage import read_json
from mien.core.types import Face, FaceTrack, Recording
from mien.data.dataset import Dataset
from mien.data.pictures import OTHERS_FILE, PictureSettings, make_pictures
from mien.data.process import Job, prepare_recording
from mien.data.settings import PrepareConfig
from mien.media.detectors import make_detector
from mien.media.face_cover import find_faces
from mien.media.faces import crop_square
from mien.media.people import (
    PICTURES_VERSION,
    PeopleFinder,
    automatic_interval,
    choose_participant,
    is_still,
    without_doubles,
)
from mien.media.people_flow import carry_faces
from mien.media.video import sample_frames
from mien.predict.predictor import sample_crops
from mien.runtime.bundle import Bundle, Sampling
from people_scenes import Actor, KnowingDetector, scene, standing


def find(actors, *, frames, fps=10.0, detect_every=1, detector=None):
    detector = detector or KnowingDetector(actors)
    finder = PeopleFinder(detector, detect_every=detect_every)
    for frame in range(frames):
        finder.add(scene(actors, frame), pts_s=frame / fps)
    return finder, finder.finish()


def owners(track, actors):
    """Number of the actor that is nearest to a track's box in each of its frames."""
    found = []
    for frame, box in zip(track.frames, track.boxes_xyxy, strict=True):
        centre = (box[:2] + box[2:]) / 2
        places = [actor.box(int(frame)) for actor in actors]
        away = [np.inf if p is None else np.hypot(*(centre - (p[:2] + p[2:]) / 2)) for p in places]
        found.append(int(np.argmin(away)))
    return found


def crossing(frames, *, speed=1.0):
    """Two people who walk past each other, the first in front."""
    across = np.linspace(60, 260, frames)
    return [
        Actor(1, lambda frame: (across[frame], 80.0, 40.0)),
        Actor(2, lambda frame: (across[frames - 1 - frame], 84.0, 38.0)),
    ]


@pytest.mark.parametrize(("frames", "fps", "detect_every"), [(40, 10.0, 1), (40, 10.0, 2), (12, 1.0, 1)])
def test_two_people_who_cross_keep_their_tracks(frames, fps, detect_every):
    actors = crossing(frames)
    _, people = find(actors, frames=frames, fps=fps, detect_every=detect_every)
    assert len(people.tracks) == 2
    # Where they pass each other the nearest box says nothing; before and after it must be the same person.
    for track in people.tracks:
        apart = [f for f in range(len(track.frames)) if abs(track.frames[f] - (frames - 1) / 2) > frames / 10]
        assert len({owners(track, actors)[f] for f in apart}) == 1
    assert sorted(len(track.frames) for track in people.tracks)[1] == frames
    assert min(len(track.frames) for track in people.tracks) < frames  # one was covered


def test_who_leaves_and_comes_back_elsewhere_keeps_the_track():
    def place(frame):
        return None if 10 <= frame < 70 else standing(80 if frame < 10 else 240, 80, 40)(frame)

    actors = [Actor(3, place), Actor(4, standing(160, 80, 40))]
    _, people = find(actors, frames=80, fps=5.0)
    assert [len(track.frames) for track in people.tracks] == [20, 80]
    assert set(owners(people.tracks[0], actors)) == {0}


def test_somebody_else_on_the_same_chair_is_another_person():
    first = Actor(5, lambda frame: standing(160, 80, 40)(frame) if frame < 15 else None)
    second = Actor(6, lambda frame: standing(160, 80, 40)(frame) if frame >= 16 else None)
    _, people = find([first, second], frames=30, fps=2.0)
    assert [len(track.frames) for track in people.tracks] == [15, 14]


def test_a_passer_by_never_takes_over():
    participant = Actor(7, standing(100, 90, 36))
    passer = Actor(8, lambda frame: (250 - 4 * frame, 90, 60) if 8 <= frame < 14 else None)
    _, people = find([passer, participant], frames=40)
    choice = choose_participant(people.tracks)
    assert set(owners(people.tracks[choice.track], [passer, participant])) == {1}
    assert choice.rival is not None and not choice.is_close


def test_a_photo_on_the_wall_is_a_track_but_not_the_participant():
    actors = [Actor(9, standing(80, 90, 36)), Actor(10, standing(240, 90, 70, sway=0))]
    detector = KnowingDetector(actors, jitter_px=0.1)
    _, people = find(actors, frames=20, detector=detector)
    assert [is_still(track) for track in people.tracks] == [False, True]
    assert [choose_participant(people.tracks, choice=name).track for name in ("main", "left", "right")] == [0, 0, 0]
    _, alone = find(actors[1:], frames=20, detector=KnowingDetector(actors[1:], jitter_px=0.1))
    assert choose_participant(alone.tracks).track == 0  # better than nobody


def track(number, box, *, frames=10, score=0.9):
    moves = np.linspace(0, 10, frames)[:, None]
    boxes = np.array(box, np.float32) + np.tile(moves, 4)
    landmarks = np.repeat(boxes[:, None, :2], 5, axis=1)
    return FaceTrack(number, np.arange(frames), np.arange(frames) / 5, boxes, landmarks, np.full(frames, score))


def test_main_is_largest_and_most_present():
    small, large, doubtful = track(0, (0, 0, 10, 10)), track(1, (50, 0, 62, 12)), track(2, (80, 0, 100, 20), score=0.2)
    choice = choose_participant([small, large, doubtful])
    assert (choice.track, choice.rival) == (1, 0)  # 144 x .9 against 100 x .9 and 400 x .2
    assert choice.ratio == pytest.approx(100 / 144) and choice.is_close
    brief = track(3, (0, 0, 40, 40), frames=1)
    assert choose_participant([brief, track(4, (0, 0, 15, 15), frames=10)]).track == 4
    assert choose_participant([]).track is None


def test_left_and_right_go_by_the_whole_recording_and_leave_posters_out():
    poster, brief = track(0, (0, 0, 9, 10)), track(1, (5, 0, 25, 20), frames=2)
    left, right = track(2, (30, 0, 50, 20)), track(3, (60, 0, 72, 11))
    everyone = [poster, brief, left, right]
    assert choose_participant(everyone, choice="left").track == 2  # 90 < 400 / 4; 2 frames < 10 / 4
    assert choose_participant(everyone, choice="right").track == 3  # 132 is just enough
    with pytest.raises(UserError, match="Unknown face choice 'middle'"):
        choose_participant([left], choice="middle")
    near = [track(0, (30, 0, 50, 20)), track(1, (34, 0, 54, 20))]
    assert choose_participant(near, choice="left").is_close


def test_a_face_found_twice_counts_once():
    def face(*box, score):
        return Face(np.array(box, np.float32), np.zeros((5, 2), np.float32), score)

    best, double, beside = face(0, 0, 20, 20, score=0.9), face(2, 2, 20, 18, score=0.8), face(15, 0, 35, 20, score=0.7)
    assert without_doubles([double, beside, best]) == [best, beside]


def test_between_detections_faces_are_followed():
    actors = [Actor(11, standing(100, 90, 40)), Actor(12, standing(230, 90, 36))]
    every, few = KnowingDetector(actors, jitter_px=0), KnowingDetector(actors, jitter_px=0)
    _, whole = find(actors, frames=30, detector=every)
    finder, followed = find(actors, frames=30, detector=few, detect_every=5)
    assert finder.num_detected == 6 and few.calls == [0, 5, 10, 15, 20, 25]
    for one, other in zip(whole.tracks, followed.tracks, strict=True):
        assert one.frames.tolist() == other.frames.tolist()
        assert np.abs(one.boxes_xyxy - other.boxes_xyxy).max() < 2
        assert np.abs(one.landmarks_xy - other.landmarks_xy).mean() < 0.5


def test_whole_pictures_are_looked_at_once_per_second_and_newcomers_found_by_then():
    actors = [Actor(11, standing(100, 90, 40)), Actor(12, lambda f: standing(230, 90, 36)(f) if f >= 7 else None)]
    finder, people = find(actors, frames=20, fps=5.0)
    assert (finder.num_detected, finder.num_whole) == (20, 4)  # at 0, 1, 2 and 3 s
    assert people.tracks[0].frames.tolist() == list(range(20))
    assert people.tracks[1].frames.tolist() == list(range(10, 20))
    always = PeopleFinder(KnowingDetector(actors), look_around_s=0.0)
    shown = [len(always.add(scene(actors, frame), pts_s=frame / 5)) for frame in range(20)]
    assert shown == [1] * 7 + [2] * 13 and always.num_whole == 20


def test_after_a_pause_or_a_jump_the_whole_picture_is_looked_at():
    actors = [Actor(13, lambda frame: standing(60 if frame < 3 else 220, 90, 40)(frame))]
    assert find(actors, frames=5, fps=5.0)[0].num_whole == 2  # at the start and where it jumps
    assert find(actors[:1], frames=5, fps=2.0)[0].num_whole == 5
    assert find([], frames=5, fps=5.0)[0].num_whole == 5  # nobody: always whole


@pytest.mark.parametrize("away", [0.0, 0.12, 3.0])
def test_mtcnn_finds_a_face_again_where_it_was(away):
    from mien.demo.drawing import Expression, FacePainter, Person

    painter = FacePainter(Person.sample(np.random.default_rng(3)), width=240, height=180)
    pictures = [np.full((200, 900, 3), 128, np.uint8) for _ in range(2)]
    detector = make_detector("mtcnn")
    pictures[0][10:190, 20:260] = painter.draw(Expression())
    (before,) = detector.detect(pictures[0])
    side = float((before.box_xyxy[2:] - before.box_xyxy[:2]).max())
    left = 20 + round(away * side)
    pictures[1][10:190, left : left + 240] = painter.draw(Expression())
    again = detector.find_again(pictures[1], before)
    if away > 1:
        assert again is None
        return
    (whole,) = detector.detect(pictures[1])
    assert again is not None and again.score > 0.9
    assert np.abs(again.landmarks_xy - whole.landmarks_xy).mean() < 0.03 * side
    assert np.abs(again.box_xyxy - whole.box_xyxy).max() < 0.12 * side


@pytest.mark.real
@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_following_real_faces_changes_little(shared_data, name):
    weights = shared_data / "weights/yunet/yunet_n_640_640.onnx" if name == "yunet" else None
    path = sorted((shared_data / "smile_study/Analysis/Respondent Cameras").glob("*.mp4"))[9]
    finders = [PeopleFinder(make_detector(name, weights=weights), look_around_s=around) for around in (0.0, 1.0)]
    differences = []
    for frame in sample_frames(path, fps=5.0):
        whole, followed = ([one.face for one in f.add(frame.rgb, pts_s=frame.pts_s)] for f in finders)
        assert len(whole) == len(followed)
        for one, other in zip(whole, followed, strict=True):
            side = float((one.box_xyxy[2:] - one.box_xyxy[:2]).max())
            differences.append(float(np.abs(one.landmarks_xy - other.landmarks_xy).mean()) / side)
    assert finders[1].num_whole < 0.3 * finders[0].num_whole
    assert np.median(differences) < 0.015


def test_where_a_face_is_lost_the_detector_looks_at_once():
    leaves = [Actor(13, lambda frame: standing(160, 90, 40)(frame) if frame < 7 else None)]
    detector = KnowingDetector(leaves)
    _, people = find(leaves, frames=12, detector=detector, detect_every=5)
    assert people.tracks[0].frames.tolist() == list(range(7))
    assert 7 in detector.calls and 6 not in detector.calls
    cut = [Actor(14, lambda frame: (80, 90, 40) if frame < 7 else (230, 70, 60))]
    detector = KnowingDetector(cut)
    _, people = find(cut, frames=10, detector=detector, detect_every=5)
    assert 7 in detector.calls
    assert people.tracks[0].boxes_xyxy[-1][0] > 150


def test_faces_near_each_other_are_never_followed():
    actors = [Actor(15, standing(120, 90, 40)), Actor(16, standing(165, 90, 40))]
    detector = KnowingDetector(actors)
    finder, _ = find(actors, frames=6, detector=detector, detect_every=3)
    assert finder.num_detected == 6
    grey = np.zeros((90, 160), np.uint8)
    assert carry_faces(grey, np.zeros((45, 80), np.uint8), [], scale=1.0) is None  # another size


def test_every_sample_is_detected_below_ten_per_second():
    assert [automatic_interval(fps) for fps in (0.5, 9.9, 10, 30)] == [1, 1, 2, 6]


# The passer-by comes first, so that crops of the participant wait in the other file until the end.
TWO = [
    Actor(21, lambda frame: (220 - 3 * frame, 90, 60) if frame < 6 else None),
    Actor(22, lambda frame: None if frame in (9, 10) else standing(100, 90, 40)(frame)),
]
SETTINGS = PictureSettings(fps=5.0, crop="face", face="main", size_px=48, margin=1.6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "two.mp4"
    return write_video(path, times_s=[i / 5 for i in range(16)], pictures=[scene(TWO, i) for i in range(16)])


def test_crops_are_of_the_participant_in_every_frame(clip, tmp_path):
    made = make_pictures(clip, settings=SETTINGS, detector=KnowingDetector(TWO), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["crops.npy"] and not (tmp_path / OTHERS_FILE).exists()
    crops, frames = np.load(tmp_path / "crops.npy"), made.frames
    assert len(made.tracks) == 2 and frames["track"].tolist() == [1 if i not in (9, 10) else -1 for i in range(16)]
    assert frames["face_found"].tolist() == [i not in (9, 10) for i in range(16)]
    for i, frame in enumerate(sample_frames(clip, fps=5.0)):
        box = frames.loc[i, ["x0", "y0", "x1", "y1"]].to_numpy(np.float32)
        expected = (
            crop_square(frame.rgb, box, margin=1.6, size_px=48) if np.isfinite(box).all() else np.zeros_like(crops[i])
        )
        assert np.array_equal(crops[i], expected)
    quality = frames[["sharpness", "face_px", "yaw_proxy", "pitch_proxy", "roll_deg", "brightness"]]
    assert quality.notna().all(axis=1).tolist() == frames["face_found"].tolist()
    assert frames["face_px"].dropna().between(47, 49).all()


@pytest.mark.parametrize("kind", ["face", "none", "panel"])
def test_predict_sees_the_crops_that_prepare_stores(clip, tmp_path, kind):
    recording = Recording("two", "P", clip, "camera")
    config = PrepareConfig(fps=5.0, crop=kind, size_px=48, workers=1, context_width_px=32)
    job = Job(recording=recording, root=clip.parent, folder=tmp_path / "two", config=config)
    prepare_recording(job, detector=KnowingDetector(TWO))
    stored = np.load(tmp_path / "two/crops.npy")
    sampling = Sampling(fps=5.0, crop=kind, face="main", size_px=48, margin=1.6, detector="knowing")
    seen = list(sample_crops(clip, sampling=sampling, detector=KnowingDetector(TWO)))
    assert len(seen) == len(stored) == 16
    for sample, crop in zip(seen, stored, strict=True):
        assert (sample.crop is None) == (kind == "face" and not sample.face_found)
        assert np.array_equal(np.zeros_like(crop) if sample.crop is None else sample.crop, crop)


def test_everyone_is_kept_in_the_dataset(clip, tmp_path):
    recording = Recording("two", "P", clip, "camera")
    job = Job(recording, clip.parent, tmp_path / "recordings/two", PrepareConfig(fps=5.0, size_px=48))
    prepare_recording(job, detector=KnowingDetector(TWO))
    dataset = Dataset(tmp_path, info={"config": {"crop": "face"}})
    first, second = dataset.tracks("two")
    assert first.frames.tolist() == [0, 1, 2, 3, 4, 5] and len(second.frames) == 14
    assert first.landmarks_xy.shape == (6, 5, 2) and first.pts_s[1] == pytest.approx(0.2)
    own = dataset.frames("two").query("face_found")[["x0", "y0", "x1", "y1"]].to_numpy()
    assert np.array_equal(own, second.boxes_xyxy)


@pytest.mark.parametrize("name", ["mtcnn"])
def test_drawn_people_who_cross_keep_their_tracks(name):
    from mien.demo.drawing import Expression, FacePainter, Person

    people = [Person.sample(np.random.default_rng(seed)) for seed in (3, 8)]
    painters = [FacePainter(person, width=240, height=180) for person in people]
    finder, across = PeopleFinder(make_detector(name)), np.linspace(20, 300, 10).round().astype(int)
    for frame in range(10):
        picture = np.full((200, 560, 3), 128, np.uint8)
        for painter, x in zip(painters, (across[frame], across[9 - frame]), strict=True):
            picture[10:190, x : x + 240] = painter.draw(Expression(smile=frame / 10))
        finder.add(picture, pts_s=frame * 1.0)
    tracks = finder.finish().tracks
    long = [track for track in tracks if len(track.frames) >= 3]
    assert len(long) == 2
    for track in long:
        centres = (track.boxes_xyxy[:, 0] + track.boxes_xyxy[:, 2]) / 2
        assert (np.diff(centres) > 0).all() or (np.diff(centres) < 0).all()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("fps", [2, 10])
def test_real_people_who_cross_keep_their_tracks(shared_data, fps):
    cameras = sorted((shared_data / "smile_study/Analysis/Respondent Cameras").glob("*.mp4"))
    detector = make_detector("yunet", weights=shared_data / "weights/yunet/yunet_n_640_640.onnx")
    for first, second in ((3, 40), (17, 55)) if fps == 2 else ((25, 60),):
        pair = [list(sample_frames(cameras[number], fps=fps, threads=1)) for number in (first, second)]
        num = min(map(len, pair), default=0)
        finder, across = PeopleFinder(detector, detect_every=automatic_interval(fps)), np.linspace(0, 800, num)
        for frame in range(num):
            picture = np.full((720, 1280, 3), 128, np.uint8)
            for shown, x in zip(pair, (across[frame], 800 - across[frame]), strict=True):
                picture[120:600, round(x) : round(x) + 480] = shown[frame].rgb[:, 80:560]
            finder.add(picture, pts_s=frame / fps)
        tracks = [track for track in finder.finish().tracks if len(track.frames) >= 0.1 * num]
        assert len(tracks) == 2
        for track in tracks:
            centres = (track.boxes_xyxy[:, 0] + track.boxes_xyxy[:, 2]) / 2
            assert len(track.frames) > 0.6 * num
            middle = np.abs(centres - 640) > 100
            side = np.sign(centres - 640)[middle] * np.sign(track.frames - num / 2)[middle]
            assert abs(side.sum()) == len(side)  # one direction all the way


def test_a_picture_without_a_face_gives_nobody():
    finder = PeopleFinder(KnowingDetector([]))
    assert finder.add(np.zeros((40, 60, 3), np.uint8), pts_s=0.0) == []
    people = finder.finish()
    assert people.tracks == () and choose_participant(people.tracks).track is None


def test_a_close_choice_is_told(tmp_path):
    pair = [Actor(31, standing(90, 90, 40)), Actor(32, standing(230, 90, 38))]
    path = write_video(
        tmp_path / "pair.mp4", times_s=[i / 5 for i in range(8)], pictures=[scene(pair, i) for i in range(8)]
    )
    job = Job(Recording("pair", "P", path, "camera"), tmp_path, tmp_path / "out", PrepareConfig(fps=5.0, size_px=32))
    prepare_recording(job, detector=KnowingDetector(pair))
    facts = read_json(tmp_path / "out/recording.json")
    assert (facts["num_tracks"], facts["track"], facts["rival_track"], facts["track_share"]) == (2, 0, 1, 1.0)
    (problem,) = facts["problems"]
    assert problem["stage"] == "faces" and "shows 2 people" in problem["reason"] and "--face left" in problem["advice"]
    alone = Job(job.recording, tmp_path, tmp_path / "left", PrepareConfig(fps=5.0, size_px=32, face="left"))
    prepare_recording(alone, detector=KnowingDetector(pair))
    assert read_json(tmp_path / "left/recording.json")["problems"] == []


def test_how_often_the_detector_looks_decides_what_a_dataset_holds():
    first, second = PrepareConfig(fps=10), PrepareConfig(fps=10, detect_every=1)
    assert first.recording_digest(detector="mtcnn") != second.recording_digest(detector="mtcnn")
    with pytest.raises(UserError, match="detect_every is 0"):
        PrepareConfig(detect_every=0)


def test_who_comes_is_covered_at_once(tmp_path):
    actors = [Actor(31, standing(90, 90, 40)), Actor(32, lambda f: standing(230, 90, 38)(f) if f >= 2 else None)]
    pictures = [scene(actors, frame) for frame in range(8)]
    path = write_video(tmp_path / "pair.mp4", times_s=[i / 5 for i in range(8)], pictures=pictures)
    newcomer = find_faces(path, detector=KnowingDetector(actors)).tracks[1]
    assert newcomer.frames.tolist() == list(range(2, 8))


def test_a_bundle_of_other_pictures_says_so(probe_bundle, capsys):
    bundle = Bundle.open(probe_bundle)
    bundle.check_use()
    assert "another version" not in capsys.readouterr().err
    sampling = replace(bundle.spec.sampling, pictures=PICTURES_VERSION - 1)
    bundle.spec = replace(bundle.spec, sampling=sampling)
    bundle.check_use()
    assert "Prepare its study again" in capsys.readouterr().err

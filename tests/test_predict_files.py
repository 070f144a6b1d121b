"""`mien predict` on files: what is done stays done, what fails leaves nothing old, and everything is said."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import pandas as pd
import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.core.errors import UserError
from mien.core.storage import read_json
from mien.predict.outputs import distinct_names
from mien.predict.predictor import AllFailedError, predict_files
from mien.predict.scratch import scratch_folder
from mien.runtime.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(probe_bundle):
    return Bundle.open(probe_bundle)


@pytest.fixture(scope="module")
def cut_off(probe_video, tmp_path_factory):
    """The recording with its index at the front, without its second half."""
    folder = tmp_path_factory.mktemp("cut")
    whole = folder / "whole.mp4"
    with av.open(str(probe_video)) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path = folder / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


def broken(path):
    path.write_bytes(b"no video at all")
    return path


def test_a_recording_that_was_cut_off_is_predicted_and_said(bundle, cut_off, tmp_path, capsys):
    (result,) = predict_files(bundle, videos=[cut_off], out=tmp_path)
    assert "that the file declares" in result["problem"] and "that the file declares" in capsys.readouterr().err
    assert 0 < result["frames"] < 12
    failures = pd.read_csv(tmp_path / "failures.csv")
    assert failures["predicted"].tolist() == [True] and "declares" in failures["reason"][0]
    assert "declares" in (tmp_path / "cut.html").read_text()


def test_nothing_of_an_earlier_run_stays(bundle, probe_video, tmp_path):
    video, out = tmp_path / "v.mp4", tmp_path / "out"
    shutil.copyfile(probe_video, video)
    predict_files(bundle, videos=[video, broken(tmp_path / "w.mp4")], out=out)
    assert (out / "failures.csv").is_file() and (out / "v.timeline.csv").is_file()
    predict_files(bundle, videos=[video], out=out)
    assert not (out / "failures.csv").exists(), "this run was clean"
    with pytest.raises(AllFailedError):
        predict_files(bundle, videos=[broken(video)], out=out)
    assert sorted(path.name for path in out.iterdir()) == ["failures.csv"], "no timeline of what isn't this video now"


def test_all_that_fail_are_said(probe_bundle, tmp_path):
    videos = [str(broken(tmp_path / name)) for name in ("a.mp4", "b.mp4")]
    command = ["predict", str(probe_bundle), *videos, "--out", str(tmp_path / "out"), "--json"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 2
    assert "a.mp4" in answer.stderr and "b.mp4" in answer.stderr and "None of 2" in answer.stderr
    assert [item["video"] for item in json.loads(answer.stdout)] == videos
    assert pd.read_csv(tmp_path / "out/failures.csv")["video"].tolist() == videos


def test_some_that_fail_are_counted(probe_bundle, probe_video, tmp_path):
    command = ["predict", str(probe_bundle), str(probe_video), str(broken(tmp_path / "a.mp4")), "--out"]
    answer = CliRunner().invoke(app, [*command, str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.stderr
    assert "1 of 2 videos could not be predicted" in answer.stderr


class TestFolder:
    def test_everything_below_is_predicted_once(self, bundle, probe_video, tmp_path):
        (tmp_path / "in/deep").mkdir(parents=True)
        for name in ("x.mp4", "deep/x.mp4"):
            shutil.copyfile(probe_video, tmp_path / "in" / name)
        (tmp_path / "in/notes.txt").write_text("no video")
        out = tmp_path / "in/results"
        results = predict_files(bundle, videos=[tmp_path / "in", tmp_path / "in/x.mp4"], out=out, video=True)
        assert [item["video"].removeprefix(f"{tmp_path}/in/") for item in results] == ["deep/x.mp4", "x.mp4"]
        assert (out / "x-2.timeline.csv").is_file() and (out / "x.mp4").is_file()
        again = predict_files(bundle, videos=[tmp_path / "in"], out=out, video=True)
        assert len(again) == 2, "annotated copies are no recordings"

    def test_one_without_recordings_is_said(self, bundle, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="holds no recording"):
            predict_files(bundle, videos=[tmp_path / "empty"], out=tmp_path / "out")

    def test_names_are_distinct(self, tmp_path):
        paths = [tmp_path / name for name in ("a/x.mp4", "b/x.mp4", "x-2.mp4")]
        assert distinct_names(paths) == ["x", "x-2", "x-2-2"]


class TestResume:
    @pytest.fixture
    def done(self, bundle, probe_video, tmp_path):
        video = tmp_path / "v.mp4"
        shutil.copyfile(probe_video, video)
        predict_files(bundle, videos=[video], out=tmp_path / "out")
        return video, tmp_path / "out"

    def is_done_again(self, bundle, video, out, **options):
        before = (out / "v.predicted.json").stat().st_mtime_ns
        predict_files(bundle, videos=[video], out=out, **options)
        return (out / "v.predicted.json").stat().st_mtime_ns != before

    def test_what_is_there_is_not_predicted_again(self, bundle, done, capsys):
        video, out = done
        first = predict_files(bundle, videos=[video], out=out)
        assert "there already" in capsys.readouterr().err
        assert not self.is_done_again(bundle, video, out)
        assert first[0]["timeline"] == str(out / "v.timeline.csv") and first[0]["frames"] == 12

    def test_a_missing_or_damaged_file_is_made_again(self, bundle, done):
        video, out = done
        (out / "v.timeline.csv").write_text("recording_id\n")
        assert self.is_done_again(bundle, video, out)
        (out / "v.html").unlink()
        assert self.is_done_again(bundle, video, out)

    def test_a_run_killed_before_its_end_is_done_again(self, bundle, done):
        video, out = done
        whole = (out / "v.timeline.csv").read_bytes()
        (out / "v.predicted.json").unlink()
        (out / "v.timeline.csv").write_text("half")
        predict_files(bundle, videos=[video], out=out)
        assert (out / "v.timeline.csv").read_bytes() == whole
        (out / "v.predicted.json").write_text('{"files": ')
        predict_files(bundle, videos=[video], out=out)
        assert read_json(out / "v.predicted.json")["files"].keys() == {"timeline", "timeline_parquet", "plot"}

    def test_another_video_bundle_or_option_is_done_again(self, bundle, done, probe_bundle, tmp_path):
        video, out = done
        assert self.is_done_again(bundle, video, out, elan=True)
        os.utime(video, ns=(1, 1))
        assert self.is_done_again(bundle, video, out, elan=True)
        other = tmp_path / "other"
        shutil.copytree(probe_bundle, other)
        manifest = read_json(other / "bundle.json")
        (other / "bundle.json").write_text(json.dumps(manifest))  # as whole as before, another file
        assert self.is_done_again(Bundle.open(other), video, out, elan=True)

    def test_a_corrected_elan_file_is_kept(self, bundle, done, capsys):
        video, out = done
        predict_files(bundle, videos=[video], out=out, elan=True)
        (out / "v.eaf").write_text("corrected by a person")
        assert not self.is_done_again(bundle, video, out, elan=True), "a correction makes nothing unfinished"
        (out / "v.html").unlink()
        predict_files(bundle, videos=[video], out=out, elan=True)
        assert (out / "v.eaf").read_text() == "corrected by a person"
        assert "is kept" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from pathlib import Path
import pandas as pd
import mien.predict.predictor as predictor

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where, bundle, out, *videos = sys.argv[1:]
second = Path(videos[1]).stem
if where == "page":
    draw = predictor.timeline_page
    predictor.timeline_page = lambda *a, title, **k: die() if title.startswith(second) else draw(*a, title=title, **k)
else:
    write = pd.DataFrame.to_csv
    def half(table, path, **options):
        if Path(path).name.startswith(f".{second}."):
            Path(path).write_text("recording_id,start_s")
            die()
        return write(table, path, **options)
    pd.DataFrame.to_csv = half
predictor.predict_files(Path(bundle), videos=[Path(video) for video in videos], out=Path(out))
"""


@pytest.mark.parametrize("where", ["table", "page"])
def test_a_killed_run_goes_on_with_what_is_not_done(bundle, probe_bundle, probe_video, tmp_path, where, capsys):
    videos = [tmp_path / f"{name}.mp4" for name in ("a", "b", "c")]
    for video in videos:
        shutil.copyfile(probe_video, video)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED, where, str(probe_bundle), str(killed), *map(str, videos)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert sorted(path.name for path in killed.glob("*.predicted.json")) == ["a.predicted.json"]
    if where == "table":
        assert not (killed / "b.timeline.csv").exists(), "a table that is half written has another name"
        assert [path for path in killed.iterdir() if path.name.startswith(".b.timeline")]
    before = {path.name: path.stat().st_mtime_ns for path in killed.glob("a.*")}
    capsys.readouterr()
    results = predict_files(bundle, videos=videos, out=killed)
    assert capsys.readouterr().err.count("there already") == 1
    assert before == {path.name: path.stat().st_mtime_ns for path in killed.glob("a.*")}, "the first wasn't done again"
    expected = predict_files(bundle, videos=videos, out=whole)
    assert [item["frames"] for item in results] == [item["frames"] for item in expected] == [12] * 3
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names, "nothing of the killed run is left"
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


class TestHostileNamesAndDisks:
    def test_any_name_is_predicted_and_one_that_is_no_text_refused(self, bundle, probe_video, tmp_path):
        names = ["-dash", "quote\"'", "new\nline", "漢字 é", "x" * 240]
        if os.fsencode("\udcff") == b"\xff":
            names.append("\udcff")
        videos = [tmp_path / f"{name}.mp4" for name in names]
        for video in videos:
            shutil.copyfile(probe_video, video)
        results = predict_files(bundle, videos=videos, out=tmp_path / "out")
        refused = [item["error"] for item in results if "error" in item]
        assert len(refused) == len(names) - 5 and all("isn't UTF-8" in text for text in refused)
        assert all(
            read_json(tmp_path / "out" / f"{name}.predicted.json")["result"]["frames"] == 12 for name in names[:4]
        )
        (long,) = (tmp_path / "out").glob("xxx*.timeline.csv")
        assert len(long.name) < 240 and results[4]["timeline"] == str(long)
        assert pd.read_csv(long)["recording_id"][0] == "x" * 240

    def test_a_later_run_does_not_take_the_place_of_another_video(self, bundle, probe_video, tmp_path):
        out = tmp_path / "out"
        first, second = tmp_path / "a/v.mp4", tmp_path / "b/v.mp4"
        for video in (first, second):
            video.parent.mkdir()
            shutil.copyfile(probe_video, video)
        predict_files(bundle, videos=[first, second], out=out)
        before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        (again,) = predict_files(bundle, videos=[second], out=out)
        assert again["timeline"] == str(out / "v-2.timeline.csv")
        assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before, "both were done already"
        first.unlink()  # a folder that was moved, or a video that was replaced, has its name back
        (moved,) = predict_files(bundle, videos=[second], out=out)
        assert moved["timeline"] == str(out / "v.timeline.csv")

    def test_names_that_differ_in_case_are_told_apart(self):
        names = distinct_names([Path("a/x.mp4"), Path("b/X.mp4"), Path("c/x.MP4")])
        assert len({name.casefold() for name in names}) == 3

    def test_a_full_disk_costs_one_video_and_is_said(self, bundle, probe_video, tmp_path, monkeypatch):
        videos = [tmp_path / f"{name}.mp4" for name in ("a", "b")]
        for video in videos:
            shutil.copyfile(probe_video, video)
        write = pd.DataFrame.to_parquet

        def full(table, path, **options):
            if ".b." in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write(table, path, **options)

        monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
        first, second = predict_files(bundle, videos=videos, out=tmp_path / "out")
        assert first["frames"] == 12 and "No space left on device" in second["error"] and "TMPDIR" in second["error"]
        assert sorted({path.name.split(".")[0] for path in (tmp_path / "out").iterdir()}) == ["a", "failures"]
        monkeypatch.setattr(pd.DataFrame, "to_parquet", write)
        assert predict_files(bundle, videos=videos, out=tmp_path / "out")[1]["frames"] == 12

    def test_a_folder_that_cannot_be_written_to_is_said_first(self, bundle, probe_video, tmp_path, monkeypatch):
        monkeypatch.setattr("mien.predict.predictor.predict_recording", lambda *_, **__: pytest.fail("too late"))
        (tmp_path / "file").write_text("x")
        for out in (tmp_path / "file", tmp_path / "file/below"):
            with pytest.raises(UserError, match=r"is a file|can be written"):
                predict_files(bundle, videos=[probe_video], out=out)


def test_a_copy_never_has_the_place_of_the_video(bundle, probe_video, tmp_path):
    video = tmp_path / "v.mp4"
    shutil.copyfile(probe_video, video)
    with pytest.raises(UserError, match="another folder"):
        predict_files(bundle, videos=[video], out=tmp_path, video=True)
    predict_files(bundle, videos=[video], out=tmp_path)
    assert video.read_bytes() == probe_video.read_bytes(), "what has the name of a result is the video itself"


HOLDING = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from mien.predict.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "crops.npy").write_bytes(b"a face")
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders are kept there")
def test_crops_of_a_killed_run_go_with_the_next_and_those_of_a_running_one_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        assert [process.stdout.readline() for process in processes] == [b"there\n"] * 2
        (tmp_path / "mien-crops-of-somebody").mkdir()
        with scratch_folder() as folder:
            assert len(list(tmp_path.glob("mien-crops-*/crops.npy"))) == 2 and folder.is_dir()
        processes[0].kill()
        processes[0].wait()
        with scratch_folder():
            assert len(list(tmp_path.glob("mien-crops-*/crops.npy"))) == 1, "the killed one's are gone"
        assert not folder.exists() and (tmp_path / "mien-crops-of-somebody").is_dir()
    finally:
        for process in processes:
            process.kill()
            process.communicate()

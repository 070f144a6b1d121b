"""The service: what it takes, what it refuses, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from mien.core.errors import MediaError, UserError
from mien.predict.predictor import predict_files
from mien.runtime.bundle import Bundle
from mien.serve.app import _events_of, create_app
from mien.serve.jobs import FOLDER_PREFIX, FullError, Jobs, hold, remove_abandoned
from mien.serve.settings import ServeSettings
from mien.serve.uploads import UploadError, readable_name, receive
from mien.serve.workers import Report, check_size

TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def service(probe_bundle, tmp_path_factory):
    """A service of its own process: URL, bundle, folder of its files."""
    with Running(probe_bundle, tmp_path_factory.mktemp("served"), "--max-mb", "2") as started:
        yield started


class Running:
    """Starts `mien serve` and ends it by SIGTERM; afterwards nothing may be left in its temporary folder."""

    def __init__(self, bundle: Path, folder: Path, *options: str, token: str = "") -> None:
        self.bundle, self.folder, self.options, self.token = bundle, folder, options, token

    def __enter__(self):
        environment = {**os.environ, "TMPDIR": str(self.folder), "MIEN_SERVE_TOKEN": self.token, "OMP_NUM_THREADS": "1"}
        self.log = (self.folder.parent / f"{self.folder.name}.log").open("w+")
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "mien"), "serve", str(self.bundle), "--port", "0", *self.options],
            stderr=self.log,
            env=environment,
        )
        deadline = time.monotonic() + 60
        while not (found := re.search(r"Page: (http://\S+)/", Path(self.log.name).read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline, Path(self.log.name).read_text()
            time.sleep(0.05)
        self.url = found[1]
        return self

    def __exit__(self, *raised) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) in (0, -signal.SIGTERM)
        self.log.close()
        assert not list(self.folder.glob(f"{FOLDER_PREFIX}*"))

    def jobs(self) -> list[Path]:
        return list(self.folder.glob(f"{FOLDER_PREFIX}*/job-*"))

    def wait(self, job_id: str, *, seconds: float = 60, headers: dict[str, str] | None = None) -> dict:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = httpx.get(f"{self.url}/v1/jobs/{job_id}", headers=headers).json()
            if job["state"] in ("done", "failed", "cancelled"):
                return job
            time.sleep(0.05)
        raise AssertionError(f"still {job}")


def workers_of(service) -> list[int]:
    found = []
    # Threads start workers, and a child is listed at the thread that started it.
    for thread in Path(f"/proc/{service.process.pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            found += [int(child)] if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text() else []
    return found


def send(service, content: bytes, *, name: str = "talk.mp4") -> httpx.Response:
    return httpx.post(f"{service.url}/v1/jobs", files={"video": (name, content)}, timeout=30)


def test_a_video_by_http_says_what_predict_says(service, probe_video, probe_bundle, tmp_path):
    predict_files(probe_bundle, videos=[probe_video], out=tmp_path)
    expected = pd.read_csv(next(tmp_path.glob("*.timeline.csv")))
    answer = send(service, probe_video.read_bytes())
    assert answer.status_code == 202, answer.text
    job = service.wait(answer.json()["job_id"])
    assert job["state"] == "done" and job["frames"] == len(expected)
    got = httpx.get(f"{service.url}/v1/jobs/{job['job_id']}/timeline").json()
    table = pd.DataFrame(got["rows"], columns=got["columns"])
    column = next(name for name in expected if name.startswith("prob_"))
    assert (table[column].astype(float) - expected[column]).abs().max() < 1e-4
    as_csv = httpx.get(f"{service.url}/v1/jobs/{job['job_id']}/timeline?format=csv")
    assert as_csv.headers["content-type"].startswith("text/csv") and "talk" in as_csv.headers["content-disposition"]
    page = httpx.get(f"{service.url}/v1/jobs/{job['job_id']}/page")
    assert page.status_code == 200 and "<svg" in page.text
    assert httpx.get(f"{service.url}/v1/jobs/{job['job_id']}/events").status_code == 200


def test_the_upload_goes_when_its_job_ended_and_the_results_on_demand(service, probe_video):
    job_id = send(service, probe_video.read_bytes()).json()["job_id"]
    service.wait(job_id)
    folder = max(service.jobs(), key=lambda path: path.stat().st_mtime)
    assert (folder / "out").is_dir() and not list(folder.glob("video*"))
    assert httpx.delete(f"{service.url}/v1/jobs/{job_id}").status_code == 204
    assert not folder.exists()
    assert httpx.get(f"{service.url}/v1/jobs/{job_id}").status_code == 404


def test_the_body_itself_may_be_the_video(service, probe_video):
    answer = httpx.post(f"{service.url}/v1/jobs?name=clip.mp4", content=probe_video.read_bytes())
    assert answer.status_code == 202 and answer.json()["name"] == "clip.mp4"
    assert service.wait(answer.json()["job_id"])["state"] == "done"


def test_progress_is_told_until_the_end(service, probe_video):
    job_id = send(service, probe_video.read_bytes()).json()["job_id"]
    with httpx.stream("GET", f"{service.url}/v1/jobs/{job_id}/progress", timeout=60) as stream:
        told = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]
    assert told[-1]["state"] == "done"


@pytest.mark.parametrize(
    ("content", "status"), [(b"not a video at all" * 50, 422), (b"\x00" * 4096, 422), (b"\x1f\x8b" + b"z" * 999, 422)]
)
def test_a_file_that_is_no_video_fails_with_a_reason(service, content, status):
    job = service.wait(send(service, content).json()["job_id"])
    assert job["state"] == "failed" and job["reason"]
    assert str(service.folder) not in job["reason"]
    result = httpx.get(f"{service.url}/v1/jobs/{job['job_id']}/timeline")
    assert result.status_code == status and result.json()["detail"] == job["reason"]


def test_bodies_that_are_refused(service):
    before = len(service.jobs())
    post = f"{service.url}/v1/jobs"
    assert send(service, b"").status_code == 422
    assert httpx.post(post, content=b"").status_code == 422
    assert httpx.post(post, files={"other": ("a.mp4", b"x")}).status_code == 422
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert httpx.post(post, content=b"--b\r\nnonsense", headers=broken).status_code == 400
    assert httpx.post(post, content=b"--b--", headers={"content-type": "multipart/form-data"}).status_code == 400
    assert httpx.post(post, content=b"x" * 3_000_000).status_code == 413
    huge = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2147483648\r\n\r\n"
    assert raw(service, huge).startswith(b"HTTP/1.1 413")
    assert len(service.jobs()) == before


def test_an_upload_that_is_cut_leaves_nothing(service):
    before = len(service.jobs())
    with socket.create_connection(address(service)) as connection:
        connection.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n\r\n" + b"x" * 500)
        time.sleep(0.3)
    deadline = time.monotonic() + 10
    while len(service.jobs()) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(service.jobs()) == before
    assert httpx.get(f"{service.url}/health").json()["status"] == "ok"


def test_names_never_become_paths(service, probe_video):
    answer = send(service, probe_video.read_bytes(), name="../../../../tmp/evil.mp4")
    assert answer.json()["name"] == "evil.mp4"
    assert service.wait(answer.json()["job_id"])["state"] == "done"
    assert not list(Path("/tmp").glob("evil*"))
    for wrong in ("../jobs", "..%2f..%2fetc%2fpasswd", "a" * 22, "a" * 500):
        assert httpx.get(f"{service.url}/v1/jobs/{wrong}/timeline").status_code in (404, 422)
    assert readable_name("a\x00b\nc.mp4") == "abc.mp4"


def test_other_sites_and_other_hosts_are_refused(service):
    assert httpx.get(f"{service.url}/health", headers={"Host": "evil.example"}).status_code == 400
    other = httpx.post(f"{service.url}/v1/jobs", content=b"x", headers={"Origin": "https://evil.example"})
    assert other.status_code == 403


def test_a_killed_worker_loses_its_own_job_alone(service, probe_video):
    job_id = send(service, probe_video.read_bytes()).json()["job_id"]
    for worker in workers_of(service):
        os.kill(worker, signal.SIGKILL)
    first = service.wait(job_id)
    assert first["state"] in ("failed", "done")  # it may have been quicker than the signal
    assert service.wait(send(service, probe_video.read_bytes()).json()["job_id"])["state"] == "done"


def test_what_the_model_is_for_is_said(service):
    assert "hiring" in httpx.get(f"{service.url}/health").json()["prohibited_use"]
    model = httpx.get(f"{service.url}/v1/model").json()
    assert model["outputs"] and model["annotated_by"].startswith("as ")
    page = httpx.get(f"{service.url}/")
    assert page.status_code == 200 and "script-src 'self'" in page.headers["content-security-policy"]
    for part in ("page.css", "page.js"):
        assert httpx.get(f"{service.url}/{part}").status_code == 200
    assert set(httpx.get(f"{service.url}/openapi.json").json()["paths"]) >= {"/v1/jobs", "/health", "/ready"}


def test_elsewhere_than_on_loopback_a_token_is_needed(probe_bundle, probe_video, tmp_path):
    with pytest.raises(UserError, match="MIEN_SERVE_TOKEN"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(UserError, match="guessed"):
        ServeSettings(token="short")
    (tmp_path / "t").mkdir()
    with Running(probe_bundle, tmp_path / "t", token=TOKEN) as service:
        assert httpx.get(f"{service.url}/health").status_code == 200
        assert httpx.get(f"{service.url}/v1/model").status_code == 401
        wrong = {"Authorization": "Bearer nonsense-nonsense"}
        assert httpx.post(f"{service.url}/v1/jobs", content=b"x", headers=wrong).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        sent = httpx.post(f"{service.url}/v1/jobs", content=probe_video.read_bytes(), headers=right)
        assert service.wait(sent.json()["job_id"], headers=right)["state"] == "done"


def test_an_upload_that_stalls_is_given_up(tmp_path):
    async def slow():
        yield b"x"
        await asyncio.sleep(5)
        yield b"y"

    with pytest.raises(UploadError) as stalled:
        asyncio.run(receive(slow(), path=tmp_path / "video", content_type="", declared_bytes=None, name="a",
                            max_bytes=100, idle_s=0.05))  # fmt: skip
    assert stalled.value.status == 408


def test_a_small_file_with_a_huge_picture_or_a_long_film_is_refused(probe_video):
    with pytest.raises(MediaError, match="more than 1000 in all"):
        check_size(probe_video, settings=ServeSettings(max_pixels=1000))
    with pytest.raises(MediaError, match="2 s are allowed"):
        check_size(probe_video, settings=ServeSettings(max_duration_s=2))
    check_size(probe_video, settings=ServeSettings())


def test_limits_of_jobs_and_their_expiry(probe_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    jobs = Jobs(probe_bundle, settings=ServeSettings(max_waiting=1, keep_s=0.01, grace_s=0))
    try:
        folder = jobs.reserve()
        (folder / "video").write_bytes(b"x")
        job = jobs.submit(folder / "video", name="a")  # the workers aren't started: it waits
        with pytest.raises(Exception, match=r"^$"):
            jobs.reserve()
        jobs.remove(job)
        assert jobs.counts()["queued"] == 0
        jobs.start()
        deadline = time.monotonic() + 10
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not folder.exists()
    finally:
        jobs.stop()
    assert not list(tmp_path.glob(f"{FOLDER_PREFIX}*"))


def test_folders_of_killed_services_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone, own, fresh = (tmp_path / f"{FOLDER_PREFIX}{name}" for name in ("gone", "own", "fresh"))
    for folder in (gone, own, fresh):
        folder.mkdir()
    killed = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from mien.serve.jobs import hold; from pathlib import Path; "
         "hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)", str(gone)], stdout=subprocess.PIPE
    )  # fmt: skip
    assert killed.stdout is not None and killed.stdout.readline()
    held = hold(own)
    remove_abandoned()
    assert gone.exists() and own.exists() and fresh.exists()
    killed.kill()
    killed.wait()
    remove_abandoned()
    assert not gone.exists() and own.exists() and fresh.exists()
    os.close(held)


def test_of_a_killed_worker_no_picture_stays(service, probe_video):
    job = send(service, probe_video.read_bytes()).json()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(service.folder.glob(f"{FOLDER_PREFIX}*/job-*/mien-*")):
        time.sleep(0.005)
        if httpx.get(f"{service.url}/v1/jobs/{job['job_id']}").json()["state"] == "done":
            pytest.skip("it was done before a worker could be killed")
    for worker in workers_of(service):
        os.kill(worker, signal.SIGKILL)
    assert service.wait(job["job_id"])["state"] == "failed"
    left = [path.name for folder in service.jobs() for path in folder.iterdir() if path.name != "out"]
    assert left == [] and not list(service.folder.glob("mien-[!s]*"))


def test_without_room_an_upload_is_refused_and_the_service_lives(service, monkeypatch):
    app = create_app(service.bundle)
    with TestClient(app, base_url="http://127.0.0.1") as client:

        def full(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("mien.serve.uploads._RawSink.take", full)
        answer = client.post("/v1/jobs", content=b"x" * 100)
        assert answer.status_code == 507 and "no room" in answer.json()["detail"]
        assert not list(app.state.jobs.root.glob("job-*"))
        assert client.get("/health").status_code == 200
        assert client.get("/health/", follow_redirects=False).status_code == 404


def test_a_job_that_is_deleted_as_it_ends_harms_nobody(probe_bundle, monkeypatch):
    jobs = Jobs(probe_bundle, settings=ServeSettings(grace_s=0))
    try:
        folder = jobs.reserve()
        (folder / "video").write_bytes(b"x")
        (folder / "mien-crops").mkdir()
        job = jobs.submit(folder / "video", name="a")
        jobs._told(job.job_id, Report("running", "Predicting"))
        clean = jobs._clean
        monkeypatch.setattr(jobs, "_clean", lambda job_id: (clean(job_id), jobs.remove(job)))
        jobs._told(job.job_id, Report("done"))
        assert not folder.exists() and jobs.find(job.job_id) is None and not jobs._doomed
    finally:
        jobs.stop()


def test_a_driver_outlives_what_one_job_meets(probe_bundle, monkeypatch, capfd):
    jobs = Jobs(probe_bundle, settings=ServeSettings(grace_s=0))

    def none(self):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("mien.serve.workers.Workers._spawn", none)
    try:
        jobs.start()
        for _ in range(2):
            folder = jobs.reserve()
            (folder / "video").write_bytes(b"x")
            job = jobs.submit(folder / "video", name="a")
            deadline = time.monotonic() + 10
            while job.ended is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert job.state == "failed" and job.report.outcome == "bug" and not (folder / "video").exists()
        assert jobs.is_taking
    finally:
        jobs.stop()
    assert not jobs.is_taking


def test_a_cancelled_job_that_waits_keeps_no_video(probe_bundle):
    jobs = Jobs(probe_bundle, settings=ServeSettings(grace_s=0, max_waiting=1))
    try:
        folders = [jobs.reserve() for _ in range(2)]
        for folder in folders:
            (folder / "video").write_bytes(b"x")
        job = jobs.submit(folders[0] / "video", name="a")
        with pytest.raises(FullError):  # both were let in before either was sent
            jobs.submit(folders[1] / "video", name="b")
        jobs.remove(job)
        assert not (folders[0] / "video").exists()
    finally:
        jobs.stop()


def test_after_the_signal_nothing_waits_twice(probe_bundle, probe_video, tmp_path):
    (tmp_path / "served").mkdir()
    started = Running(probe_bundle, tmp_path / "served")
    with started:
        for _ in range(3):
            job_id = send(started, probe_video.read_bytes()).json()["job_id"]
        with httpx.stream("GET", f"{started.url}/v1/jobs/{job_id}/progress", timeout=60) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            began_s = time.monotonic()
            started.process.send_signal(signal.SIGTERM)
            assert list(lines) is not None  # it ends, with the service's connection
        started.process.wait(30)
        assert time.monotonic() - began_s < 26  # the grace of 20 s once, not for requests and again for jobs


@pytest.mark.parametrize(
    ("parts", "status"), [(17, 400), (3, 413)], ids=["many parts", "a large part that isn't the video"]
)
def test_forms_are_limited_in_all_they_hold(tmp_path, parts, status):
    field = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n%s\r\n'

    async def body():
        for _ in range(parts):
            yield field % (b"" if status == 400 else b"y" * 40_000)

    with pytest.raises(UploadError) as raised:
        asyncio.run(
            receive(body(), path=tmp_path / "video", content_type="multipart/form-data; boundary=b",
                    declared_bytes=None, name="", max_bytes=10, idle_s=5)
        )  # fmt: skip
    assert raised.value.status == status


def test_an_upload_that_drips_is_given_up(tmp_path):
    async def body():
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    with pytest.raises(UploadError, match="bytes arrived in") as raised:
        asyncio.run(
            receive(body(), path=tmp_path / "video", content_type="video/mp4", declared_bytes=None, name="",
                    max_bytes=1000, idle_s=0.3)
        )  # fmt: skip
    assert raised.value.status == 408


def test_playlists_are_no_recordings(tmp_path, probe_video):
    for head in ("ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:1,\n{}\n", "\ufeff#EXTM3U\n{}\n"):
        (tmp_path / "video").write_text(head.format(probe_video))
        with pytest.raises(MediaError, match="isn't a media file"):
            check_size(tmp_path / "video", settings=ServeSettings())


def test_settings_that_could_never_work_are_refused():
    with pytest.raises(UserError, match="line end"):
        ServeSettings(token=TOKEN + "\n")
    assert "[fd00::5]" in ServeSettings(host="fd00::5", token=TOKEN).allowed_hosts


def test_without_a_temporary_folder_it_does_not_start(probe_bundle, monkeypatch):
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(UserError, match="TMPDIR"):
        create_app(probe_bundle)


def test_a_silent_stream_says_that_it_lives(probe_bundle, monkeypatch):
    monkeypatch.setattr("mien.serve.app.STILL_THERE_S", 0.4)

    class Waits:
        app = SimpleNamespace(state=SimpleNamespace(stopping=False))

        async def is_disconnected(self) -> bool:
            return False

    jobs = Jobs(probe_bundle, settings=ServeSettings(grace_s=0))
    try:
        folders = [jobs.reserve() for _ in range(2)]
        first, second = (jobs.submit(folder / "video", name="a") for folder in folders)  # nobody works: both wait
        Waits.app.state.jobs = jobs

        async def follow() -> list[str]:
            told = []
            async for text in _events_of(Waits(), second):  # type: ignore[arg-type]
                told.append(text)
                if text.startswith(":"):
                    jobs.remove(first)
                if '"position": 0' in text:
                    Waits.app.state.stopping = True
            return told

        told = asyncio.run(asyncio.wait_for(follow(), 10))
    finally:
        jobs.stop()
    assert '"position": 1' in told[0] and told[1].startswith(": ") and '"position": 0' in told[-1]


def test_a_bundle_that_is_none_is_refused_at_the_start(tmp_path):
    with pytest.raises(UserError, match="isn't a bundle"):
        create_app(tmp_path)


def test_a_changed_byte_is_refused(probe_bundle, tmp_path):
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(probe_bundle, copy)
    content = bytearray((copy / "head.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "head.onnx").write_bytes(bytes(content))
    with pytest.raises(UserError, match="sha256 differs"):
        Bundle.open(copy)


def address(service) -> tuple[str, int]:
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


def raw(service, request: bytes) -> bytes:
    with socket.create_connection(address(service), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(200)

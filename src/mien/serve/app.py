"""The HTTP service: a video in, its timeline and events out, and a page for people.

Everything that is long happens in worker processes; here requests are only received, checked and answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from mien.core.labels import annotated_by
from mien.core.progress import say
from mien.core.purpose import INTENDED_USE, PROHIBITED_USE
from mien.runtime.bundle import Bundle, ModelSpec
from mien.serve.jobs import ENDED, STATUS_OF, VIDEO_STEM, FullError, Job, Jobs, check_temporary_folder, job_json
from mien.serve.schemas import HealthAnswer, JobAnswer, ModelAnswer, Problem, ReadyAnswer, TimelineAnswer
from mien.serve.settings import ServeSettings
from mien.serve.uploads import FORM_FIELD, UploadError, receive

EXPIRE_EVERY_S = 30.0
TEXT_COLUMNS = ("recording_id", "label", "abstained")
FOLLOW_EVERY_S = 0.2
STILL_THERE_S = 15.0
"""A stream in which nothing is to be told says at least so often that it lives: proxies cut silent connections."""

RETRY_AFTER_S = "5"
OPEN_PATHS = frozenset({"/", "/page.css", "/page.js", "/health", "/ready"})
"""Answered without a token: they say nothing of anybody's video."""

PAGE_FILES = {"page.css": "text/css", "page.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Format = Literal["json", "csv"]
JobId = Annotated[str, PathParameter(description="Name of the job, from POST /v1/jobs.", max_length=64)]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing or wrong."},
    404: {"model": Problem, "description": "There is no such job (any more)."},
    422: {"model": Problem, "description": "The request isn't as described here."},
}
RESULT_PROBLEMS: dict[int | str, dict[str, Any]] = PROBLEMS | {
    409: {"model": Problem, "description": "The job is still under way."},
    410: {"model": Problem, "description": "The job was cancelled."},
    422: {"model": Problem, "description": "The video can't be read or predicted."},
    500: {"model": Problem, "description": "A bug of the service; its log says more."},
}
TABLE: dict[str, Any] = {
    "response_model": TimelineAnswer,
    "responses": RESULT_PROBLEMS | {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
}
UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FORM_FIELD],
                    "properties": {FORM_FIELD: {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def create_app(bundle_path: Path, *, settings: ServeSettings | None = None) -> FastAPI:
    """Return the service of a bundle.

    Args:
        bundle_path: Folder of the bundle; it is opened once here, so that a broken one is refused at the start.
        settings: Limits.

    Raises:
        UserError: It isn't a bundle, or not one that predicts new recordings; or there is nowhere to write uploads.
    """
    settings = settings or ServeSettings()
    check_temporary_folder()
    bundle = Bundle.open(bundle_path)
    bundle.check_use()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        jobs = Jobs(bundle_path, settings=settings)
        app.state.jobs, app.state.stopping = jobs, False
        jobs.start()
        expiry = asyncio.create_task(_expire(jobs))
        try:
            yield
        finally:
            app.state.stopping = True
            jobs.close()
            expiry.cancel()
            await asyncio.to_thread(jobs.stop)

    app = FastAPI(
        title="mien",
        version=version("mien"),
        summary=f"{bundle.spec.labels.target}: expression {annotated_by(bundle.spec.labels.label_source)}",
        description=f"Intended use: {INTENDED_USE}\n\nNot for: {PROHIBITED_USE}",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy that speaks TLS it would lead to http
    )
    app.state.settings, app.state.spec, app.state.uploads = settings, bundle.spec, 0
    app.middleware("http")(_guard)
    app.exception_handler(RequestValidationError)(_wrong_request)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.allowed_hosts), www_redirect=False)
    _add_service(app)
    _add_jobs(app)
    _add_results(app)
    return app


async def _expire(jobs: Jobs) -> None:
    while True:
        await asyncio.sleep(min(EXPIRE_EVERY_S, jobs.settings.keep_s))
        await asyncio.to_thread(jobs.expire)


async def _wrong_request(request: Request, error: Exception) -> Response:  # noqa: ARG001 (FastAPI's signature)
    """Say what is wrong with a request, in the form of every other problem."""
    assert isinstance(error, RequestValidationError)
    wrong = [f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors()]
    return JSONResponse({"detail": "; ".join(wrong)}, status_code=422)


async def _guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Ask for the token, refuse what other sites' pages send, and set the headers of every answer."""
    response = _refusal(request) or await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _refusal(request: Request) -> Response | None:
    token, origin = request.app.state.settings.token, request.headers.get("origin")
    if origin is not None and origin.split("//")[-1] != request.headers.get("host"):
        return JSONResponse({"detail": "Requests from pages of other sites are refused."}, status_code=403)
    if token is None or request.scope["path"] in OPEN_PATHS:
        return None
    given = request.headers.get("authorization", "")
    if hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode()):
        return None
    return JSONResponse(
        {"detail": "This service asks for a token: send the header 'Authorization: Bearer TOKEN'."},
        status_code=401,
        headers={"WWW-Authenticate": "Bearer"},
    )


def _add_service(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _page_file("page.html", "text/html")

    @app.get("/page.css", include_in_schema=False)
    def style() -> Response:
        return _page_file("page.css", PAGE_FILES["page.css"])

    @app.get("/page.js", include_in_schema=False)
    def script() -> Response:
        return _page_file("page.js", PAGE_FILES["page.js"])

    @app.get("/health", tags=["service"], summary="Is it there?")
    def health() -> HealthAnswer:
        return HealthAnswer(
            status="ok", version=version("mien"), intended_use=INTENDED_USE, prohibited_use=PROHIBITED_USE
        )

    @app.get(
        "/ready",
        tags=["service"],
        summary="Does it take another video?",
        responses={503: {"model": ReadyAnswer, "description": "Not now."}},
    )
    def ready(request: Request, response: Response) -> ReadyAnswer:
        state = request.app.state
        counts = state.jobs.counts()
        takes = not state.stopping and state.uploads < state.settings.max_uploads and state.jobs.is_taking
        response.status_code = 200 if takes else 503
        return ReadyAnswer(ready=takes, jobs=counts)

    @app.get("/v1/model", tags=["service"], summary="What does it predict?", responses={401: PROBLEMS[401]})
    def model(request: Request) -> ModelAnswer:
        return _model_answer(request.app.state.spec, settings=request.app.state.settings)


def _model_answer(spec: ModelSpec, *, settings: ServeSettings) -> ModelAnswer:
    return ModelAnswer(
        target=spec.labels.target,
        outputs=list(spec.labels.output_names),
        kind=spec.labels.kind,
        label=spec.label,
        label_source=spec.labels.label_source,
        annotated_by=annotated_by(spec.labels.label_source),
        modalities=list(spec.modalities),
        fps=spec.sampling.fps,
        baseline=spec.baseline,
        intended_use=INTENDED_USE,
        prohibited_use=PROHIBITED_USE,
        version=version("mien"),
        max_upload_bytes=settings.max_upload_bytes,
        max_duration_s=settings.max_duration_s,
        keep_s=settings.keep_s,
    )


def _page_file(name: str, media_type: str) -> Response:
    return Response((files("mien.serve") / "page" / name).read_bytes(), media_type=f"{media_type}; charset=utf-8")


def _add_jobs(app: FastAPI) -> None:
    @app.post(
        "/v1/jobs",
        tags=["jobs"],
        status_code=202,
        summary="Send a video",
        openapi_extra=UPLOAD_BODY,
        responses={
            400: {"model": Problem, "description": "The upload was cut, or its form can't be read."},
            401: PROBLEMS[401],
            408: {"model": Problem, "description": "The upload stalled."},
            413: {"model": Problem, "description": "The video is too large."},
            422: {"model": Problem, "description": "There is no file in it."},
            503: {"model": Problem, "description": "Too many videos wait; try again later."},
            507: {"model": Problem, "description": "The service has no room for it."},
        },
    )
    async def send(
        request: Request,
        name: Annotated[str, Query(description="What to call the video, where the body is the file.")] = "",
    ) -> JobAnswer:
        """As a form with the file in the field `video`, or as the body itself; answered before it is predicted."""
        state = request.app.state
        if state.stopping or state.uploads >= state.settings.max_uploads:
            raise _busy("Too many uploads at once")
        state.uploads += 1
        try:
            return _answer(state.jobs, await _take(request, name=name))
        finally:
            state.uploads -= 1

    @app.get("/v1/jobs/{job_id}", tags=["jobs"], summary="Where is it?", responses=PROBLEMS)
    def look(request: Request, job_id: JobId) -> JobAnswer:
        jobs = request.app.state.jobs
        return _answer(jobs, _found(jobs, job_id))

    @app.delete(
        "/v1/jobs/{job_id}", tags=["jobs"], status_code=204, summary="Cancel it, delete results", responses=PROBLEMS
    )
    def delete(request: Request, job_id: JobId) -> None:
        jobs = request.app.state.jobs
        jobs.remove(_found(jobs, job_id))

    @app.get(
        "/v1/jobs/{job_id}/progress",
        tags=["jobs"],
        summary="Follow it",
        response_class=StreamingResponse,
        responses=PROBLEMS | {200: {"content": {"text/event-stream": {}}, "description": "A job per event."}},
    )
    async def follow(request: Request, job_id: JobId) -> StreamingResponse:
        """Server-sent events: the job as JSON whenever something changed, until it ended."""
        job = _found(request.app.state.jobs, job_id)
        return StreamingResponse(_events_of(request, job), media_type="text/event-stream")


def _busy(why: str) -> HTTPException:
    return HTTPException(503, f"{why}; try again in {RETRY_AFTER_S} s.", headers={"Retry-After": RETRY_AFTER_S})


def _no_room(error: OSError) -> HTTPException:
    """Say that an upload can't be written; who runs the service reads why in its log."""
    say(f"An upload can't be written: {error.strerror}.")
    return HTTPException(507, "The service has no room for the video.", headers={"Connection": "close"})


async def _take(request: Request, *, name: str) -> Job:
    """Receive an upload and queue it; whatever goes wrong, nothing stays behind."""
    jobs: Jobs = request.app.state.jobs
    settings: ServeSettings = request.app.state.settings
    try:
        folder = jobs.reserve()
    except FullError:
        raise _busy(f"{settings.max_waiting} videos wait already") from None
    except OSError as error:
        raise _no_room(error) from error
    declared = request.headers.get("content-length", "")
    try:
        upload = await receive(
            request.stream(),
            path=folder / VIDEO_STEM,
            content_type=request.headers.get("content-type", ""),
            declared_bytes=int(declared) if declared.isdecimal() else None,
            name=name,
            max_bytes=settings.max_upload_bytes,
            idle_s=settings.idle_upload_s,
        )
    except UploadError as error:
        shutil.rmtree(folder, ignore_errors=True)
        # What is left of the body isn't read: the connection can't be used again.
        raise HTTPException(error.status, error.detail, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        shutil.rmtree(folder, ignore_errors=True)
        raise HTTPException(400, "The upload was cut.") from None
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _no_room(error) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        return jobs.submit(upload.path, name=upload.name)
    except FullError:
        shutil.rmtree(folder, ignore_errors=True)
        raise _busy(f"{settings.max_waiting} videos wait already") from None


def _found(jobs: Jobs, job_id: str) -> Job:
    job = jobs.find(job_id)
    if job is None:
        raise HTTPException(404, "There is no such job. Results are deleted some time after a job ended.")
    return job


def _answer(jobs: Jobs, job: Job) -> JobAnswer:
    return JobAnswer(**job_json(job, position=jobs.position(job)))


async def _events_of(request: Request, job: Job) -> AsyncIterator[str]:
    jobs, told, silent_s = request.app.state.jobs, None, 0.0
    while not request.app.state.stopping:
        ended, news = job.state in ENDED, (job.changes, jobs.position(job))
        if news != told:
            told, silent_s = news, 0.0
            yield f"data: {json.dumps(job_json(job, position=news[1]))}\n\n"
        elif silent_s >= STILL_THERE_S:
            silent_s = 0.0
            yield ": still there\n\n"  # a comment: https://html.spec.whatwg.org/multipage/server-sent-events.html
        if ended or await request.is_disconnected():
            return
        await asyncio.sleep(FOLLOW_EVERY_S)
        silent_s += FOLLOW_EVERY_S


def _add_results(app: FastAPI) -> None:
    @app.get("/v1/jobs/{job_id}/timeline", tags=["results"], summary="Timeline", **TABLE)
    def timeline(request: Request, job_id: JobId, format: Format = "json") -> Any:
        """Probabilities at each sampled frame; as CSV with `format=csv`."""
        return _table(request, job_id, suffix=".timeline.csv", format=format)

    @app.get("/v1/jobs/{job_id}/events", tags=["results"], summary="Events", **TABLE)
    def events(request: Request, job_id: JobId, format: Format = "json") -> Any:
        """Onset and offset of each event; empty where the bundle samples too seldom to place one."""
        return _table(request, job_id, suffix=".events.csv", format=format)

    @app.get(
        "/v1/jobs/{job_id}/page",
        tags=["results"],
        summary="Page",
        response_class=FileResponse,
        responses=RESULT_PROBLEMS,
    )
    def result_page(request: Request, job_id: JobId) -> Response:
        """The self-contained page that `mien predict` writes, to keep."""
        job = _done(request.app.state.jobs, job_id)
        return FileResponse(_file(job, ".html"), media_type="text/html", filename=f"{_stem(job)}.html")


def _done(jobs: Jobs, job_id: str) -> Job:
    job = _found(jobs, job_id)
    if job.state not in ENDED:
        raise HTTPException(409, f"The job is {job.state}; ask again when it is done, or follow its progress.")
    if job.state != "done":
        raise HTTPException(STATUS_OF[job.report.outcome], job.report.what)
    return job


def _file(job: Job, suffix: str) -> Path:
    path = job.file(suffix)
    if path is None:
        raise HTTPException(404, f"This job has no {suffix.strip('.')}.")
    return path


def _stem(job: Job) -> str:
    """Name a download after the video, in letters that any file system takes."""
    stem = job.name.rsplit(".", 1)[0]
    return "".join(c if c.isascii() and (c.isalnum() or c in " ._-") else "_" for c in stem).strip(" .") or "video"


def _table(request: Request, job_id: str, *, suffix: str, format: Format) -> Any:
    job = _done(request.app.state.jobs, job_id)
    path = job.file(suffix)
    if path is None:
        return Response("", media_type="text/csv") if format == "csv" else TimelineAnswer(columns=[], rows=[])
    if format == "csv":
        return FileResponse(path, media_type="text/csv", filename=f"{_stem(job)}{suffix}")
    try:
        # As text: a label may be called "NA" or "null".
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise HTTPException(404, "The job was deleted meanwhile.") from None
    rows = table.astype(object).where(table.notna(), None).to_numpy().tolist()
    return TimelineAnswer(columns=list(table.columns), rows=rows)

"""The command of the service: `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.errors import reported
from mien.core.progress import say

MB = 1_000_000


@reported
def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="Address. Other than this machine's own it needs the token MIEN_SERVE_TOKEN.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Further host name under which it is reached (a proxy's).")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Videos that are predicted at the same time.")] = 1,
    max_mb: Annotated[int, typer.Option("--max-mb", min=1, help="Largest video, megabytes.")] = 2000,
    max_minutes: Annotated[float, typer.Option("--max-minutes", min=0.01, help="Longest video, minutes.")] = 120.0,
    keep_minutes: Annotated[
        float, typer.Option("--keep-minutes", min=0.01, help="Results are deleted so long after their job ended.")
    ] = 60.0,
    purpose: Annotated[str, typer.Option("--purpose", help="What it is used for; some purposes are refused.")] = "",
) -> None:
    """Serve a bundle over HTTP, with a page: drop a video, see its timeline. Uploads are deleted after their job."""
    from mien.core.purpose import check_purpose
    from mien.serve.app import create_app
    from mien.serve.server import run_server
    from mien.serve.settings import ServeSettings, token_of_environment

    check_purpose(purpose, where="--purpose")
    settings = ServeSettings(
        host=host,
        port=port,
        token=token_of_environment(),
        names=tuple(name or ()),
        workers=workers,
        max_upload_bytes=max_mb * MB,
        max_duration_s=max_minutes * 60,
        keep_s=keep_minutes * 60,
    )
    app = create_app(bundle, settings=settings)
    run_server(
        app, settings=settings, ready=lambda url: say(f"Page: {url}/   API: {url}/openapi.json   Ctrl+C ends it.")
    )

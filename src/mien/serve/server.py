"""Runs the service: the socket, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mien.core.errors import UserError
from mien.serve.settings import ServeSettings

KEEP_ALIVE_S = 5
BACKLOG = 512
"""Connections that may wait to be accepted."""


def run_server(app: FastAPI, *, settings: ServeSettings, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end (SIGINT, SIGTERM): requests and running jobs get `grace_s`.

    Args:
        app: From `create_app`.
        settings: Address and port.
        ready: Called with the service's URL when it accepts connections.

    Raises:
        UserError: The address can't be listened on.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        access_log=False,  # who sent which video is nobody's business
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        backlog=BACKLOG,
        log_level="warning",
    )
    listener = _listen(settings)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    server = _Server(config)

    async def serve() -> None:
        told = asyncio.create_task(_tell(server, lambda: ready(url)))
        try:
            await server.serve(sockets=[listener])
        finally:
            told.cancel()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        return  # the signal that ended it, raised again by uvicorn
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """Tells the app of a signal at once: uvicorn waits for open requests first, and who follows a job is one."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End at SIGINT and SIGTERM."""
        state = self.config.app.state  # type: ignore[union-attr]
        state.stopping = True
        if hasattr(state, "jobs"):
            state.jobs.close()
        super().handle_exit(sig, frame)


async def _tell(server: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.05)
    ready()


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"Can't listen on {settings.host}:{settings.port} ({error}). Give another --port, or 0 for a free one."
        ) from error
    return listener

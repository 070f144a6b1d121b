"""An upload, from the request to a file, chunk by chunk: as the body itself, or as a part of a form.

What is refused here leaves nothing behind. Names from the client are text for a page, never a path.
"""

from __future__ import annotations

import asyncio
import re
import time
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

FORM_FIELD = "video"
MAX_NAME_LENGTH = 120
MAX_HEADER_BYTES = 8192
"""Of one part of a form: more isn't the name of a file."""


MAX_PARTS = 16
"""Of one form, which needs one."""
MAX_FORM_BYTES = 65536
"""What a form may hold beside the video."""
MIN_BYTES_PER_S = 2000
"""A client that sends less for longer than `idle_s` isn't slow; it holds a place."""


class UploadError(Exception):
    """A body that isn't taken.

    Attributes:
        status: HTTP status.
        detail: What came, what is allowed.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Upload:
    """What arrived.

    Attributes:
        path: The file.
        name: What the client calls it, for people to read.
        size_bytes: How large it is.
    """

    path: Path
    name: str
    size_bytes: int


def readable_name(text: str) -> str:
    r"""Return a client's name of a file as one short line of text without folders.

    >>> readable_name("../../etc/passwd"), readable_name("C:\\Users\\a\\talk.mp4"), readable_name("")
    ('passwd', 'talk.mp4', 'video')
    """
    last = re.split(r"[/\\]", text)[-1]
    shown = "".join(c for c in last if not unicodedata.category(c).startswith("C")).strip().lstrip(".")
    return shown[:MAX_NAME_LENGTH] or "video"


async def receive(
    body: AsyncIterator[bytes],
    *,
    path: Path,
    content_type: str,
    declared_bytes: int | None,
    name: str,
    max_bytes: int,
    idle_s: float,
) -> Upload:
    """Write a body to a file.

    Args:
        body: The chunks as they come.
        path: Where to; its folder exists.
        content_type: `multipart/form-data` with a file in the field `video`, else the body is the file.
        declared_bytes: `Content-Length`, None where there is none.
        name: What the client calls the file, where the body is the file.
        max_bytes: Largest file.
        idle_s: Longest wait for a chunk.

    Raises:
        UploadError: 400 for a form that can't be read or a body that was cut, 408 for one that stalled, 413 for one
            that is too large, 422 for one without a file.
    """
    if declared_bytes is not None and declared_bytes > max_bytes + MAX_FORM_BYTES:
        raise _too_large(max_bytes)
    with path.open("xb") as file:
        boundary = _boundary(content_type)
        sink: _RawSink | _FormSink = (
            _RawSink(file, max_bytes=max_bytes, name=name)
            if boundary is None
            else _FormSink(file, max_bytes=max_bytes, boundary=boundary)
        )
        received, started_s = 0, time.monotonic()
        chunks = body.__aiter__()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks, None), idle_s)
            except TimeoutError:
                raise UploadError(408, f"Nothing arrived for {idle_s:g} s; send the video again.") from None
            if chunk is None:
                break
            received += len(chunk)
            if received > max_bytes + (MAX_FORM_BYTES if boundary else 0):
                raise _too_large(max_bytes)
            waited_s = time.monotonic() - started_s
            if waited_s > idle_s and received < MIN_BYTES_PER_S * waited_s:
                raise UploadError(408, f"{received} bytes arrived in {waited_s:.0f} s; send the video again.")
            await asyncio.to_thread(sink.take, chunk)
        if declared_bytes is not None and received < declared_bytes:
            raise UploadError(400, f"The upload was cut: {received} of {declared_bytes} bytes arrived.")
        sink.close()
    if not sink.size:
        raise UploadError(422, "The upload holds no video: its file is empty.")
    return Upload(path, readable_name(sink.name), sink.size)


def _too_large(max_bytes: int) -> UploadError:
    return UploadError(413, f"The video is larger than {max_bytes / 1e6:,.0f} MB, which is what this service takes.")


def _boundary(content_type: str) -> bytes | None:
    """Return the boundary of a form, None for a body that is no form."""
    message = Message()
    message["content-type"] = content_type or "application/octet-stream"
    if message.get_content_type() != "multipart/form-data":
        return None
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not 1 <= len(boundary) <= 256:
        raise UploadError(400, "The form names no boundary between its parts.")
    return boundary.encode("latin-1", "replace")


class _RawSink:
    """Takes a body that is the file."""

    def __init__(self, file: BinaryIO, *, max_bytes: int, name: str) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.name = name
        self.size = 0

    def take(self, chunk: bytes) -> None:
        """Write a chunk."""
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._file.write(chunk)

    def close(self) -> None:
        """There is nothing that could be missing."""


class _FormSink:
    """Takes a form, and of its parts the file in the field `video`."""

    def __init__(self, file: BinaryIO, *, max_bytes: int, boundary: bytes) -> None:
        self._sink = _RawSink(file, max_bytes=max_bytes, name="")
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._fields: list[str] = []
        self._wanted = False
        self._ended = False
        callbacks: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._collect(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._collect(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._sink.take(data[start:end]) if self._wanted else None,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except MultipartParseError as error:
            raise UploadError(400, f"The form can't be read: {error}.") from error

    @property
    def name(self) -> str:
        """What the client calls the file."""
        return self._sink.name

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._sink.size

    def take(self, chunk: bytes) -> None:
        """Parse a chunk."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise UploadError(400, f"The form can't be read: {error}.") from error

    def close(self) -> None:
        """Refuse a form that isn't complete, or has no file."""
        if not self._ended:
            raise UploadError(400, "The form was cut: its last part doesn't end.")
        if FORM_FIELD not in self._fields:
            others = f" It has: {', '.join(map(readable_name, self._fields[:5]))}." if self._fields else ""
            raise UploadError(422, f"The form has no file in the field {FORM_FIELD!r}.{others}")

    def _begin(self) -> None:
        self._wanted = False

    def _collect(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)
        if len(self._header[which]) > MAX_HEADER_BYTES:
            raise UploadError(400, "The form has a header that is too long.")

    def _end_header(self) -> None:
        field, value = (bytes(part).decode("utf-8", "replace") for part in self._header)
        for part in self._header:
            part.clear()
        if field.lower() != "content-disposition":
            return
        message = Message()
        message["content-disposition"] = value.replace("\r", "").replace("\n", "")
        name = str(message.get_param("name", header="content-disposition") or "")
        if len(self._fields) >= MAX_PARTS:
            raise UploadError(400, f"The form has more than {MAX_PARTS} parts.")
        self._wanted = name == FORM_FIELD and FORM_FIELD not in self._fields
        self._fields.append(name)
        if self._wanted:
            self._sink.name = message.get_filename() or ""

    def _end_part(self) -> None:
        self._wanted = False

    def _end(self) -> None:
        self._ended = True

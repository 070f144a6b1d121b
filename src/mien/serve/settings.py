"""What the service allows: every limit that a client can run into."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from mien.core.errors import UserError

GIB = 1024**3
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the service.

    Attributes:
        host: Address to listen on. Anything but the loopback needs a token.
        port: Port to listen on; 0 takes a free one.
        token: What clients send as `Authorization: Bearer TOKEN`; None asks for none.
        names: Further host names under which clients reach the service, such as that of a proxy.
        workers: Processes that predict, each on one video at a time.
        max_upload_bytes: Largest video.
        max_duration_s: Longest video.
        max_pixels: Largest picture, width times height: a small file can hold a huge one.
        max_waiting: Jobs that may wait; more are refused with 503.
        max_uploads: Uploads at the same time; more are refused with 503.
        idle_upload_s: An upload that sends nothing for so long is given up.
        job_s: Longest time that one job may take.
        keep_s: Results are deleted so long after their job ended.
        grace_s: Time that running jobs get when the service is stopped.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    names: tuple[str, ...] = ()
    workers: int = 1
    max_upload_bytes: int = 2 * GIB
    max_duration_s: float = 2 * 3600.0
    max_pixels: int = 4096 * 2304
    max_waiting: int = 64
    max_uploads: int = 64
    idle_upload_s: float = 30.0
    job_s: float = 3600.0
    keep_s: float = 3600.0
    grace_s: float = 20.0

    def __post_init__(self) -> None:
        least = {"port": 0, "workers": 1, "max_upload_bytes": 1, "max_pixels": 1, "max_waiting": 1, "max_uploads": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, got {getattr(self, name)!r}.")
        for name in ("max_duration_s", "idle_upload_s", "job_s", "keep_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be more than 0 s, got {getattr(self, name)!r}.")
        if self.port > 65535:
            raise UserError(f"Port {self.port} doesn't exist; ports end at 65535.")
        if self.token is not None and len(self.token) < MIN_TOKEN_LENGTH:
            raise UserError(
                f"A token of {len(self.token)} characters can be guessed; give at least {MIN_TOKEN_LENGTH}."
            )
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise UserError(
                "The token has a space, a line end or a letter that a header can't carry; use ASCII letters, digits "
                "and signs (in a file of secrets: no line end behind it)."
            )
        if self.token is None and not is_loopback(self.host):
            raise UserError(
                f"Listening on {self.host} lets other machines in, so a token is needed: set MIEN_SERVE_TOKEN to at "
                f"least {MIN_TOKEN_LENGTH} characters. On 127.0.0.1 only this machine gets in, and none is needed."
            )

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names that requests may be for; others come from pages that a browser was tricked into (DNS rebinding)."""
        shown = f"[{self.host}]" if ":" in self.host else self.host  # as the header writes IPv6 (RFC 3986, 3.2.2)
        own = () if self.host in ("0.0.0.0", "::") else (shown,)
        return tuple(dict.fromkeys((*LOOPBACK_NAMES, *own, *self.names)))


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, False, True)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_of_environment() -> str | None:
    """Return the token that the environment holds: a command line is seen by every user of a machine."""
    return os.environ.get("MIEN_SERVE_TOKEN") or None

"""How a bundle is served, and the keys and names of hosts that are let in."""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from twotower.errors import ConfigError

KEYS = "TWOTOWER_KEYS"  # the variable of the environment
LEAST_KEY = 16  # characters
LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How a bundle is served.

    host, port: where to listen; port 0 takes a free one. allow_hosts: names by which callers may call beside the one listened at, as the Host
    header has them. keys: what callers must name, at least one where others than this machine can call. rate: requests a second that each key
    has, without one unbounded. watch: seconds between looks for a newer version, None for none. threads: of the towers. index: as for
    `load`. most_waiting: requests in the queue before others are refused. most_at_once: that one batch holds. most_connections: open at
    once. seconds: in which a request is answered, or 503. slow: in which a caller has to have sent the head, and then the body. drain: that
    running requests have when the server ends.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    allow_hosts: Sequence[str] = ()
    keys: Sequence[str] = ()
    rate: float | None = None
    watch: float | None = None
    threads: int | None = None
    index: str = "auto"
    most_waiting: int = 1024
    most_at_once: int = 32
    most_connections: int = 2048
    seconds: float = 10.0
    slow: float = 10.0
    drain: float = 30.0


def check_options(options: ServeOptions) -> None:
    """Raise ConfigError for what cannot be meant, and for an address that others can call without a key."""
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"a port is a number from 0 to 65535, and not {options.port}")
    if not is_local(options.host) and not options.keys:
        raise ConfigError(
            f"{options.host} can be called from elsewhere, so a key is needed: --key-file FILE, or the variable {KEYS}. Make one: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    for key in options.keys:
        if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"a key has at least {LEAST_KEY} characters, of ASCII and without spaces")
    for name, value in (
        ("rate", options.rate),
        ("watch", options.watch),
        ("seconds", options.seconds),
        ("slow", options.slow),
        ("drain", options.drain),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} is a number above 0, and not {value}")
    for name in ("most_waiting", "most_at_once", "most_connections"):
        if getattr(options, name) < 1:
            raise ConfigError(f"{name} is 1 or more, and not {getattr(options, name)}")


def is_local(host: str) -> bool:
    """Whether only this machine can call what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of a file, one a line, or of the environment, parted by commas; two or more live at once while callers change from one to the other.

    Raises ConfigError for a file that others may read, or that holds none.
    """
    if file is None:
        return tuple(part for key in os.environ.get(KEYS, "").split(",") if (part := key.strip()))
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        mode = file.stat().st_mode
    except OSError as error:
        raise ConfigError(f"the file of keys {file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the file of keys {file} is no text") from None
    if os.name == "posix" and mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"the file of keys {file} can be read by everybody or written by others: chmod 600 {file}")
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise ConfigError(f"the file of keys {file} holds none; it has one a line")
    return keys


class Keys:
    """The keys that are let in, as digests."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, key: bytes) -> int | None:
        """Which of the keys this is. Takes the same time whichever it is, and if it is none (hmac.compare_digest)."""
        digest, found = sha256(key).digest(), None
        for number, each in enumerate(self._digests):
            if hmac.compare_digest(digest, each):
                found = number
        return found

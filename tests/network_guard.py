"""Keeps tests on this machine: sockets reach loopback only, and names of other hosts are not looked up."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

INTERNET = (socket.AF_INET, socket.AF_INET6)


class NetworkUsed(AssertionError):
    """A test tried to reach something that is not this machine."""


@contextmanager
def guarded_network() -> Iterator[list[str]]:
    """Refuses every host but loopback with NetworkUsed, and lists the hosts that were tried."""
    attempts: list[str] = []

    def refuse_unless_local(host: object) -> None:
        if not is_local(host):
            attempts.append(str(host))
            raise NetworkUsed(f"a test tried to reach {host!r}")

    def guarded(method: Any) -> Any:
        def call(self: socket.socket, *args: Any) -> Any:
            if self.family in INTERNET:
                refuse_unless_local(args[-1][0])
            return method(self, *args)

        return call

    def guarded_look_up(look_up: Any) -> Any:
        def call(host: Any, *args: Any, **kwargs: Any) -> Any:
            refuse_unless_local(host)
            return look_up(host, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", guarded_look_up(socket.getaddrinfo))
        yield attempts


def is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False

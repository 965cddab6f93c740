"""What systemd hears from us: the protocol of sd_notify(3), one datagram a message.

Without ``NOTIFY_SOCKET`` (a terminal, a container) every call does nothing. A systemd that does not listen for a moment
must not stop the agent either: what cannot be sent is dropped, but for the status, which is said again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds; longer than systemd takes to read its queue, short against any watchdog
_STATUS_KEPT = 500  # characters; systemd takes 4096 bytes a message, people read one line


class Notifier:
    """Our end of the socket.

    Args:
        environment: Usually ``os.environ``. systemd's variables are taken out of it, so that git, nginx and dnsmasq
            do not inherit them and speak in our name.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        period = environment.pop("WATCHDOG_USEC", "")
        meant = environment.pop("WATCHDOG_PID", str(os.getpid()))
        self._address: str | None = None
        if address.startswith("@"):
            self._address = "\0" + address[1:]
        elif address.startswith("/"):
            self._address = address
        elif address:
            log.warning("NOTIFY_SOCKET=%s is not a socket of this host; systemd will not hear from us", address)
        self._said: str | None = None
        """The last status that was taken."""
        self._status: str | None = None
        """The newest status."""
        self._watchdog: float | None = None
        if period.isdecimal() and int(period) and meant == str(os.getpid()):
            self._watchdog = int(period) / 1e6

    @property
    def watchdog_period(self) -> float | None:
        """Seconds after which systemd kills an agent that has not called ``watchdog``; None when it does not."""
        return self._watchdog

    def ready(self, status: str = "") -> None:
        """The agent has started; systemd starts what waits for it."""
        self._send("READY=1", f"STATUS={_line(status)}" if status else "")

    def status(self, text: str) -> None:
        """One line that ``systemctl status`` shows. Said once, until it changes."""
        self._status = _line(text)
        self._say_status()

    def watchdog(self) -> None:
        """The loop makes progress. Call it from the loop itself, at least twice in every ``watchdog_period``."""
        self._say_status()
        if self._watchdog is not None:
            self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> None:
        """The agent is on its way out."""
        self._send("STOPPING=1", f"STATUS={_line(status)}" if status else "")

    def _say_status(self) -> None:
        status = self._status
        if status is not None and status != self._said and self._send(f"STATUS={status}"):
            self._said = status

    def _send(self, *lines: str) -> bool:
        """Whether it was taken."""
        if self._address is None:
            return False
        message = "\n".join(line for line in lines if line).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outlet:
                outlet.settimeout(_PATIENCE)
                outlet.sendto(message, self._address)
        except OSError as error:
            log.debug("systemd does not take %s: %s", lines[0], error)
            return False
        return True


def _line(text: str) -> str:
    """One line, because a second one would be another assignment to systemd."""
    return " ".join(text.split())[:_STATUS_KEPT]

"""Asks the agent that runs on this host."""

from __future__ import annotations

import http.client

_PATIENCE = 5.0  # seconds; the agent answers from memory


def ask_status(address: str) -> bytes | None:
    """The running agent's status as JSON; None when no agent answers at ``address`` (``host:port``)."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_PATIENCE)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    else:
        return body if response.status == http.client.OK else None
    finally:
        connection.close()

"""Asks the agent that runs on this host."""

from __future__ import annotations

import http.client
import json

_PATIENCE = 5.0  # seconds; the agent answers from memory
_LONGEST = 4 * 1024 * 1024  # bytes; a status of a thousand apps is a tenth of this


def ask_status(address: str) -> bytes | None:
    """The running agent's status as JSON; None when no agent answers at ``address`` (``host:port``).

    What listens there while no agent runs may be anybody's: it gets no say about our memory, and what is no JSON object
    is no answer.
    """
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_PATIENCE)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        body = response.read(_LONGEST + 1)
        answered = response.status == http.client.OK and len(body) <= _LONGEST
        return body if answered and isinstance(json.loads(body), dict) else None
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()

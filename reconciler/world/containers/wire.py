"""The SDK's client, made to count its calls, to end every wait and to leak nothing when the engine is away."""

from __future__ import annotations

import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import docker
import requests
import urllib3
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

from reconciler.world.containers.clients import Answered, unavailable

_LONGEST_SILENCE = 120.0  # seconds between two pieces of an answer that the SDK would wait for without end (a pull)
_VERSION = re.compile(r"^/v[0-9.]+")
_ID = re.compile(r"(?<=/)(?:[0-9a-f]{64}|sha256:[0-9a-f]+)(?=/|$)")


class Client(docker.APIClient):
    """One thread's client; the API version is negotiated, because Engine 29 wants 1.44 and 20.10 has 1.41."""

    def __init__(self, path: Path, timeout: float, calls: Counter[str]) -> None:
        self._path = path
        self._calls = calls
        super().__init__(base_url=f"unix://{path}", version="auto", timeout=int(timeout))
        self.trust_env = False  # a unix socket has no proxy; looking for one costs more than the call

    def mount(self, prefix: str | bytes, adapter: Any) -> None:  # noqa: ANN401  (the type of requests' stubs is private)
        """Put our adapter in the place of the SDK's."""
        super().mount(prefix, _Adapter(self._path) if prefix == "http+docker://" else adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # noqa: ANN401  (as requests)
        """Count, and bound the calls for which the SDK asks to wait without end."""
        path = _ID.sub("ID", _VERSION.sub("", request.path_url.partition("?")[0]))
        self._calls[f"{request.method} {path}"] += 1
        kwargs["timeout"] = kwargs.get("timeout") or _LONGEST_SILENCE
        return super().send(request, **kwargs)

    def change(self, container: str, settings: dict[str, object]) -> None:
        """``docker update`` with all that the API has; the SDK's own method knows neither CPUs nor pids."""
        url = f"{self.base_url}/v{self.api_version}/containers/{container}/update"
        answer = self.post(url, json=settings, timeout=self.timeout)
        try:
            answer.raise_for_status()
        except requests.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)

    def inspect_image(self, image: str) -> dict[str, Any]:
        """As the SDK's, which has no types."""
        found: dict[str, Any] = super().inspect_image(image)  # type: ignore[no-untyped-call]
        return found


def translate(error: Exception, path: Path, doing: str) -> Exception:
    """An error of the SDK or of the transport below it as one of ours."""
    if isinstance(error, docker.errors.APIError):
        return Answered(doing, error.status_code or 0, str(error.explanation or error))
    if isinstance(error, (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError)):
        return unavailable(path, error)
    return error


class _Connection(UnixHTTPConnection):
    """Unlike the SDK's it closes its socket when nobody listens."""

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self.unix_socket)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:  # noqa: ANN401  (the stubs of urllib3 and of the SDK disagree)
        return _Connection(self.base_url, self.socket_path)  # the timeout is set with each request


class _Adapter(UnixHTTPAdapter):
    def __init__(self, path: Path) -> None:
        super().__init__(f"http+unix://{path}")

    def get_connection(self, url: Any, proxies: Any = None) -> _Pool:  # noqa: ANN401, ARG002  (the SDK's signature)
        """The one connection of this client."""
        if "engine" not in self.pools:
            self.pools["engine"] = _Pool("http+docker://localhost", self.socket_path, maxsize=1)
        pool: _Pool = self.pools["engine"]
        return pool

"""The remote: a URL that settings name, what it permits, and the environment in which git talks to it."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler import process
from reconciler.errors import InvalidSettings, Unavailable
from reconciler.settings import Repository
from reconciler.world.source.diagnosis import disk_trouble, explain, timed_out

Kind = Literal["file", "ssh", "https", "http"]

# What git does whatever a repository, the host or a person's own configuration says. It travels in the environment
# and not in the mirror's config, so that a mirror made by an older version, or a damaged one, is no exception.
_CONFIG: tuple[tuple[str, str], ...] = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.fsync", "committed,loose-object"),  # a VM that loses power must not leave a ref to an empty object
    ("transfer.fsckObjects", "true"),
    ("http.followRedirects", "false"),  # a redirect would carry the token to another host
    ("gc.autoDetach", "false"),  # no process of ours outlives its call
    ("gc.pruneExpire", "never"),  # revisions that were applied stay readable after a rewrite
    ("advice.addEmbeddedRepo", "false"),
    ("credential.helper", ""),
)

# The helper prints what the two variables lead to. Of the ways to hand git a token this is the one that shows least:
# http.extraHeader in GIT_CONFIG_* stands in the environment of git, git-remote-https and every child of theirs, and
# an askpass program would be a file to install. Here /proc shows the token file's path and nothing else.
_HELPER = (
    '!f() { test "$1" = get || exit 0; printf "username=%s\\npassword=%s\\n" '
    '"$RECONCILER_GIT_USERNAME" "$(tr -d "\\r\\n" <"$RECONCILER_GIT_TOKEN_FILE")"; }; f'
)

_INHERITED = (
    "PATH",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GIT_SSL_CAINFO",  # a private certificate authority that is not in the system's store
)

_SCP_LIKE = re.compile(r"(?:[^/@:\s]+@)?[^/@:\s]+:(?!//)\S+\Z")
_NOT_IN_A_BRANCH = re.compile(r"^[-/]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|/\.|^\.|\.lock(?:/|$)|[/.]$")


def environment(protocol: str = "none", config: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """The complete environment of a git command that may use one transport, or none."""
    settings = [*_CONFIG, *config]
    return {
        "PATH": os.defpath,
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "GIT_ALLOW_PROTOCOL": protocol,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": str(len(settings)),
        **{f"GIT_CONFIG_KEY_{i}": key for i, (key, _) in enumerate(settings)},
        **{f"GIT_CONFIG_VALUE_{i}": value for i, (_, value) in enumerate(settings)},
    }


@dataclass(frozen=True, slots=True)
class Remote:
    """One branch of one repository. Make it with ``Remote.of``, which checks the settings."""

    settings: Repository
    kind: Kind
    url: str
    """As git gets it; free of credentials."""

    @classmethod
    def of(cls, settings: Repository) -> Remote:
        """Check what the settings say.

        Raises:
            InvalidSettings: The URL or the branch cannot be used.
        """
        kind, url = _parse(settings.url)
        if not settings.branch or _NOT_IN_A_BRANCH.search(settings.branch):
            raise InvalidSettings(
                f"repository.branch: {settings.branch!r} is not a branch name",
                reason="InvalidBranch",
                remedy="Write the branch as git branch shows it, such as main",
            )
        return cls(settings, kind, url)

    @property
    def ref(self) -> str:
        """The branch's full name."""
        return f"refs/heads/{self.settings.branch}"

    def tip(self) -> str:
        """Ask the remote where the branch is.

        Raises:
            Unavailable: With the reason why there is no answer, or ``GitBranchMissing``.
        """
        heads = self._list(self.ref)
        if self.ref in heads:
            return heads[self.ref]
        names = sorted(ref.removeprefix("refs/heads/") for ref in self._list("refs/heads/*"))
        has = f"it has {', '.join(names[:10])}{' ...' if names[10:] else ''}" if names else "it has no commits yet"
        raise Unavailable(
            f"{self.url} has no branch {self.settings.branch!r}; {has}",
            reason="GitBranchMissing",
            remedy="Push the branch, or name another one as repository.branch in the agent's settings",
        )

    def fetch(self, into: Path, ref: str) -> None:
        """Fetch the whole history of the branch into a bare repository's ref, wherever that stood before.

        Raises:
            Unavailable: With the reason; ``GitFailed`` where git's words are unknown, the mirror's own state included.
        """
        # Maintenance is for a quiet hour: a commit waits for this to end.
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"]
        self._git("fetch", *options, *self._served_by, "--", self.url, f"+{self.ref}:{ref}", mirror=into)

    def _list(self, pattern: str) -> dict[str, str]:
        output = self._git("ls-remote", "--quiet", *self._served_by, "--", self.url, pattern)
        lines = (line.partition("\t") for line in output.splitlines())
        return {ref: sha for sha, _, ref in lines}

    @property
    def _served_by(self) -> tuple[str, ...]:
        # A local repository is served by a git of our own, which refuses one that belongs to another user: on a
        # laptop the agent is root and the repository is not. The settings named it, so it is meant.
        return ("--upload-pack=git -c safe.directory=* upload-pack",) if self.kind == "file" else ()

    def _git(self, *arguments: str, mirror: Path | None = None) -> str:
        credentials = self._credentials()
        given = {**environment(self.kind, self._config()), **credentials}
        if mirror is not None:
            given["GIT_DIR"] = str(mirror)
        try:
            done = process.run(["git", *arguments], timeout=self.settings.timeout, environment=given)
        except Unavailable as error:
            if error.reason == "Timeout":
                raise timed_out(arguments[0], self.url, self.settings.timeout) from error
            raise
        if done.code != 0:
            if mirror is not None and (trouble := disk_trouble(done.stderr, mirror)):
                raise trouble
            raise explain(self._redacted(done.stderr), self.url, arguments[0])
        return done.stdout.decode(errors="replace")

    def _config(self) -> Sequence[tuple[str, str]]:
        if self.settings.token_file is None or self.kind not in {"https", "http"}:
            return ()
        # For this host alone: a proxy that asks for a password must not be told the token.
        parts = urllib.parse.urlsplit(self.url)
        return ((f"credential.{parts.scheme}://{parts.netloc}.helper", _HELPER),)

    def _credentials(self) -> Mapping[str, str]:
        if self.kind == "ssh":
            return self._ssh()
        limit = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": str(math.ceil(self.settings.timeout))}
        if self.kind == "file" or self.settings.token_file is None:
            return limit
        self._token()
        return {
            **limit,
            "RECONCILER_GIT_USERNAME": self.settings.username,
            "RECONCILER_GIT_TOKEN_FILE": str(self.settings.token_file),
        }

    def _ssh(self) -> Mapping[str, str]:
        key, known = self.settings.ssh_key, self.settings.known_hosts
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "ClearAllForwardings": "yes",
            "ControlPath": "none",
            # So that the ssh of an agent that was killed ends by itself when its server has gone.
            "ConnectTimeout": str(math.ceil(self.settings.timeout)),
            "ServerAliveInterval": "10",
        }
        if known is not None:
            _readable(known, "repository.known_hosts", "GitHostKeyUnknown")
            options |= {"UserKnownHostsFile": _ssh_path(known), "GlobalKnownHostsFile": "/dev/null"}
        if key is None:  # a person's own keys, on a laptop
            agent = {name: os.environ[name] for name in ("SSH_AUTH_SOCK",) if name in os.environ}
        else:
            _readable(key, "repository.ssh_key", "GitAuthFailed")
            options |= {"IdentityFile": _ssh_path(key), "IdentitiesOnly": "yes", "IdentityAgent": "none"}
            agent = {}
        command = ["ssh", "-F", "none", *(part for item in options.items() for part in ("-o", "=".join(item)))]
        return {**agent, "GIT_SSH_COMMAND": shlex.join(command), "GIT_SSH_VARIANT": "ssh"}

    def _token(self) -> str:
        path = self.settings.token_file
        if path is None:
            return ""
        text = _readable(path, "repository.token_file", "GitAuthFailed").strip()
        if not text:
            raise Unavailable(
                f"the token file {path} is empty", reason="GitAuthFailed", remedy="Write the access token into it"
            )
        return text

    def _redacted(self, text: str) -> str:
        # git prints no token, but a server may quote what it was given.
        token = self._token() if self.kind in {"https", "http"} else ""
        return text.replace(token, "***") if token else text


def _readable(path: Path, setting: str, reason: str) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise Unavailable(
            f"{setting}: cannot read {path}: {error.strerror}",
            reason=reason,
            remedy="Put the file there, or name another one in the agent's settings",
        ) from error


def _ssh_path(path: Path) -> str:
    """A path as a value in ssh's configuration: quoted for blanks, ``%`` not taken as a token."""
    return '"' + str(path).replace("%", "%%") + '"'


def _parse(url: str) -> tuple[Kind, str]:
    if not url or url.startswith("-") or any(character.isspace() or not character.isprintable() for character in url):
        raise _invalid("is empty, begins with '-' or contains blanks")
    if "://" in url:
        return _parse_whole(url)
    if not _SCP_LIKE.match(url):
        return "file", str(Path(url).absolute())
    if url.partition(":")[0].rpartition("@")[2].startswith("-"):
        raise _invalid("names a host that begins with '-'")
    return "ssh", url


def _parse_whole(url: str) -> tuple[Kind, str]:
    parts = urllib.parse.urlsplit(url)
    if parts.password is not None:
        raise _invalid("contains a password, which logs and process lists would show")
    host = parts.hostname or ""
    match parts.scheme:
        case "file" if parts.netloc in {"", "localhost"}:
            return "file", urllib.parse.unquote(parts.path)
        case "ssh" if host and not host.startswith("-"):
            return "ssh", url
        case "https" | "http" if parts.username is not None or parts.query or parts.fragment:
            raise _invalid("contains a user or a query, where people put tokens")
        case "https" if host:
            return "https", url
        case "http" if _loopback(host):
            return "http", url
        case "http":
            raise _invalid("uses http, which shows the token to everybody on the way")
        case _:
            raise _invalid(f"uses {parts.scheme}://, or names no host of it that can be used")


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _invalid(why: str) -> InvalidSettings:
    # The URL itself is not shown: what is wrong with it may be the password in it.
    return InvalidSettings(
        f"repository.url {why}",
        reason="InvalidRepositoryUrl",
        remedy="Write ssh://git@host/path, git@host:path, https://host/path or /path; "
        "a user and a token for https go into repository.username and repository.token_file",
    )

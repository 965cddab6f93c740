"""Errors, named by what the loop does next.

    ReconcilerError               anything that we raise on purpose; its text is for the operator
    ├── InvalidInput              wait for a commit or an edit: a person wrote something that cannot be used
    │   └── InvalidSettings       the agent's own settings; nothing can run before they are mended
    ├── Refused                   a person must decide: history rewritten, a foreign container in the way, host policy
    ├── Unavailable               try again later with backoff: Git, registry, Docker, nginx, sops, disk
    └── Failed                    record it and do not repeat: the part answered, and the answer is no

Every error says what happened, and in ``remedy`` what the operator can do about it.
"""

from __future__ import annotations


class ReconcilerError(Exception):
    """Base of all deliberate errors.

    Args:
        message: What happened, as one sentence without a trailing full stop. Never contains a secret.
        reason: A CamelCase word for status conditions and machine readers, e.g. ``RegistryUnavailable``.
        remedy: What the operator can do, as an imperative sentence; empty when nothing needs doing.
    """

    def __init__(self, message: str, *, reason: str = "Error", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class InvalidInput(ReconcilerError):  # noqa: N818  (named by what the loop does, like httpx and kopf)
    """A person wrote something that cannot be used; only an edit mends it."""


class InvalidSettings(InvalidInput):
    """The agent's own settings cannot be used."""


class Refused(ReconcilerError):  # noqa: N818
    """We could, but must not, before a person decides."""


class Unavailable(ReconcilerError):  # noqa: N818
    """An outside part did not answer or cannot work now; the same call may succeed later."""


class Failed(ReconcilerError):  # noqa: N818
    """An outside part answered, and the answer is no; repeating the same call will not help."""

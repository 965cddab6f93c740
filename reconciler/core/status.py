"""Where each app stands, in values that the CLI, the metrics and the status endpoint print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reconciler.core.model import Commit, Problem

Sync = Literal["Synced", "OutOfSync", "Unknown"]
HealthWord = Literal["Healthy", "Progressing", "Degraded", "Suspended", "Missing"]

SYNC_WORDS: tuple[Sync, ...] = ("Synced", "OutOfSync", "Unknown")
HEALTH_WORDS: tuple[HealthWord, ...] = ("Healthy", "Progressing", "Degraded", "Suspended", "Missing")


@dataclass(frozen=True, slots=True)
class Condition:
    """One aspect of an app, in Kubernetes' form, which people know."""

    type: Literal["Ready", "Healthy", "Progressing", "Stalled", "RollbackReady"]
    status: bool
    reason: str
    message: str
    since: float = 0.0
    """Unix time of the last change of ``status`` or ``reason``."""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Revisions:
    """The three revisions of an app; empty where there is none."""

    observed: str = ""
    attempted: str = ""
    applied: str = ""


@dataclass(frozen=True, slots=True)
class AppStatus:
    """One app on this host."""

    name: str
    sync: Sync
    health: HealthWord
    reason: str
    """CamelCase: ``Applied``, ``RollingOut``, ``InvalidManifest``, ``Quarantined``, ``ImageNotFound`` ..."""
    message: str
    """One or two sentences for people: what, why, what still runs, what to do."""
    revisions: Revisions = Revisions()
    image: str = ""
    fingerprint: str = ""
    replicas_desired: int = 0
    replicas_running: int = 0
    replicas_healthy: int = 0
    addresses: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    next_retry: float | None = None
    applied_at: float | None = None
    last_words: str = ""
    """The end of the output of a version that was given up."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """The whole host."""

    host: str
    version: str
    at: float
    """Unix time of the cycle that wrote this."""
    verdict: str
    """The cycle's one sentence."""
    result: Literal["converged", "progressing", "blocked", "failed"]
    apps: Mapping[str, AppStatus] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    commit: Commit | None = None
    """The revision that was observed last."""
    faults: tuple[tuple[str, str], ...] = ()
    """(reason, message) of what is wrong with the host itself: Git unreachable, nginx down, foreign containers ..."""
    prune_blocked: int = 0
    last_fetch_at: float | None = None
    """Unix time of the last successful fetch."""

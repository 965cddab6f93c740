"""What the walk needs of the world. ``world/`` implements these, tests implement them in memory.

Every method may raise ``errors.Unavailable`` (try again later); others are named where they apply.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.core.memory import Memory, Quarantined, Ran, Rehearsed
from reconciler.core.model import Commit, Credentials, Health, Secret, Tree
from reconciler.core.observed import Claim, EngineState, Limits, NamesState, ProbeResult, SiteState, Traffic
from reconciler.core.status import HostStatus
from reconciler.core.target import ContainerSpec, FileContent


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened to an app, or to the host (``app`` is empty)."""

    at: float
    app: str
    event: str
    """``deployed``, ``adopted``, ``rolled back``, ``failed``, ``after_deploy failed``, ``repaired``, ``pruned`` ..."""
    revision: str = ""
    fingerprint: str = ""
    image: str = ""
    author: str = ""
    subject: str = ""
    reason: str = ""
    """What changed, or why it failed."""
    duration: float | None = None
    """Seconds from seen to done."""


class Source(Protocol):
    """The config repository."""

    def fetch(self) -> Commit:
        """Ask the remote for the branch's tip; fetch only when it moved; check that it descends from the last trusted.

        Raises:
            Refused: reason ``HistoryRewritten``; the mirror keeps the new commits, ``accept`` takes them.
        """

    def trusted(self) -> Commit | None:
        """The last tip that ``fetch`` returned, from the local mirror alone; None before the first."""

    def accept(self, revision: str) -> Commit:
        """Trust a revision that a person looked at. ``revision`` may be abbreviated."""

    def commit(self, revision: str) -> Commit:
        """A commit of the mirror; raises InvalidInput for an unknown one."""

    def tree(self, revision: str) -> Tree:
        """The files of a revision below the configured directory."""


class Vault(Protocol):
    """SOPS."""

    def reveal(self, path: str, blob: str, content: bytes) -> Mapping[str, Secret]:
        """Decrypt one file; cached by ``blob``.

        Raises:
            InvalidInput: the file itself is wrong (tampered, not encrypted, nested); a commit mends it.
            Unavailable: no key fits, sops is missing, time ran out.
        """


class Engine(Protocol):
    """The Docker Engine."""

    def observe(self) -> EngineState:
        """All containers and images, in two list calls."""

    def ensure_network(self) -> None:
        """Make our network. Refused (``NetworkConflict``) where one of that name has another subnet or owner."""

    def pull(self, reference: str, credentials: Credentials | None) -> str:
        """Pull an image and return its id. Failed (``ImageNotFound``, ``RegistryDenied``) when it cannot be had."""

    def images(self) -> frozenset[str]:
        """Ids of all images, asked now."""

    def collect_image(self, image: str, names: Collection[str]) -> None:
        """Remove an image that is called nothing but ``names`` (normalised). No error when it is gone.

        Raises:
            Refused: reason ``ImageInUse``: a container was made of it, an image builds on it, or it has another name.
        """

    def resolve_user(self, image: str, user: str | None) -> tuple[int, int]:
        """Numeric user and group that a container of this image runs as."""

    def create(self, name: str, address: str, claim: Claim, spec: ContainerSpec) -> str:
        """Create a container, its named volumes too, and return its id.

        Raises:
            Refused: ``NameTaken`` where a foreign container holds the name, ``AddressTaken``, ``ForeignVolume`` where a
                volume is not this app's, ``BindSourceIsLink`` where a mount would follow a symbolic link.
            Failed: the engine rejects the settings.
        """

    def start(self, container: str) -> None:
        """Start. Refused (``PortTaken``) when a published port is held by someone else."""

    def stop(self, container: str, grace: float) -> None:
        """Send the stop signal, wait ``grace`` seconds, kill. No error when it is stopped or gone."""

    def remove(self, container: str) -> None:
        """Remove, keeping volumes. No error when it is gone. Refused when it does not carry our signature."""

    def unpause(self, container: str) -> None:
        """Let a paused container go on."""

    def connect(self, container: str, address: str) -> None:
        """Connect to our network at this address."""

    def update(self, container: str, limits: Limits) -> None:
        """Set limits on a running container."""

    def logs(self, container: str, lines: int) -> str:
        """The last lines of output and errors, at most 64 KiB."""

    def checked(self, container: str) -> str:
        """What its HEALTHCHECK printed last, at most 4 KiB; empty where it has none or that has not run yet."""

    def connections(self, container: str) -> int:
        """Established TCP connections to ports on which the container listens; 0 when it does not run."""


class Names(Protocol):
    """The names service."""

    def observe(self, names: Collection[str]) -> NamesState:
        """What is written and what is answered for these names, and for every other name that has a file."""

    def set(self, name: str, addresses: Sequence[str]) -> None:
        """Replace one name's file atomically; with no addresses the file is empty, so that its time is known."""

    def forget(self, name: str) -> None:
        """Remove the file of a name that no app has any more."""

    def start(self) -> None:
        """Start the service, detached, where the settings ask for it."""


class Site(Protocol):
    """The host's nginx."""

    def observe(self) -> SiteState:
        """What is loaded."""

    def load(self, generation: str, files: Sequence[tuple[str, str]]) -> None:
        """Write, test, switch, reload and confirm.

        Raises:
            Failed: reason ``NginxRejected`` (the test failed) or ``NginxDidNotLoad`` (it went on with the old
                generation, e.g. because a port is taken); the old generation is in place again.
        """


class Prober(Protocol):
    """Probes of replicas, off the loop."""

    def watch(self, targets: Mapping[str, tuple[str, Health]]) -> None:
        """Probe exactly these from now on: container id -> (address, how)."""

    def results(self) -> Mapping[str, ProbeResult]:
        """The newest results by container id."""


class Tally(Protocol):
    """What nginx says about its requests to replicas, off the loop."""

    def watch(self, addresses: Collection[str]) -> None:
        """Count the answers of exactly these from now on; what was counted of others is forgotten."""

    def results(self) -> Mapping[str, Traffic]:
        """What was counted so far, by address."""


class Files(Protocol):
    """Files on the host that containers mount."""

    def present(self) -> frozenset[str]:
        """Directories that are on disk and complete."""

    def write(self, directory: str, files: Sequence[FileContent]) -> None:
        """Write a directory completely, then let it appear under its name."""

    def write_secrets(self, directory: str, secrets: Mapping[str, Secret], owner: tuple[int, int]) -> None:
        """Likewise on tmpfs, mode 0400, for this user and group. Unavailable (``NotTmpfs``) elsewhere."""

    def remove_except(self, keep: frozenset[str]) -> None:
        """Remove all others."""


class Store(Protocol):
    """History and decisions that nobody else knows. Every write is one transaction."""

    def memory(self) -> Memory:
        """Applied revisions, quarantine, suspended apps, accepted revisions."""

    def record_applied(
        self, app: str, revision: str, fingerprint: str, at: float, image: str = "", ran: Ran | None = None
    ) -> None:
        """An app is healthy at a revision, and runs from an image of this id.

        A version that was not applied already, and that ``ran`` says has an after_deploy, has that due from now on.
        """

    def after_done(self, app: str, fingerprint: str) -> None:
        """The after_deploy of a version has ended well: it is not due any more."""

    def after_failed(self, app: str, fingerprint: str, cause: str, message: str, logs: str) -> None:
        """The after_deploy of a version has failed; it is not due again before ``retry``, or a commit changes it."""

    def record_image(self, image: str, name: str, at: float) -> None:
        """The agent brought an image to this host, pulled by this name."""

    def forget_image(self, image: str) -> None:
        """An image is gone, or somebody else uses it too: it is not ours to remove any more."""

    def quarantine(self, app: str, entry: Quarantined) -> None:
        """A fingerprint failed."""

    def record_rehearsal(self, app: str, answer: Rehearsed) -> None:
        """Whether an app could go back; the last answer counts."""

    def forget(self, app: str) -> None:
        """An app is gone: applied, quarantine and rehearsal go, history and its versions stay."""

    def add(self, entry: HistoryEntry) -> None:
        """Append to the history."""

    def history(self, app: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Newest first."""

    def suspend(self, app: str, why: str, at: float) -> None:
        """Leave an app alone until ``resume``."""

    def resume(self, app: str) -> None:
        """Take an app up again."""

    def retry(self, app: str, at: float = 0.0) -> None:
        """Lift a quarantine, make an after_deploy that failed due again, go on where before_deploy broke what runs.

        Also forget that the app could not go back.
        """

    def accept(self, revision: str) -> None:
        """A person accepts what a revision removes."""

    def save_status(self, text: str, at: float) -> None:
        """Keep the last status for when no agent runs."""

    def faults(self) -> Sequence[tuple[str, str]]:
        """(reason, message) of what is wrong with the store itself."""


class Meter(Protocol):
    """Prometheus metrics; seconds throughout."""

    def record_cycle(self, result: str, phases: Mapping[str, float]) -> None:
        """A cycle has ended; how long each phase took."""

    def record_fetch(self, result: str) -> None:
        """The remote was asked."""

    def update(self, status: HostStatus) -> None:
        """Where every app stands now."""

    def set_containers(self, pids: Mapping[str, Sequence[int]]) -> None:
        """Main processes of each app's running replicas, for CPU and memory."""

    def deployment(self, app: str, result: str) -> None:
        """A version became healthy, or failed."""

    def drift_repair(self, app: str) -> None:
        """Something was put back that no commit had changed."""

    def rollback(self, app: str) -> None:
        """An earlier version was applied again."""

    def lead_time(self, app: str, seconds: float) -> None:
        """From commit to healthy."""

    def convergence(self, app: str, seconds: float) -> None:
        """From seen to healthy."""

    def recovery(self, app: str, seconds: float) -> None:
        """From failed or degraded to healthy."""

    def nginx_reload(self, result: str) -> None:
        """A generation was handed to nginx."""

    def decrypt_failure(self, reason: str) -> None:
        """A SOPS file could not be decrypted."""


Clock = Callable[[], float]
"""Unix time in seconds."""

"""A ContainerSpec in the words of the SDK. The safe defaults are set here, and nowhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from docker.types import LogConfig, Mount

from reconciler.core import ownership
from reconciler.core.model import Secret
from reconciler.core.observed import Claim
from reconciler.core.target import ContainerSpec, HealthCommand
from reconciler.errors import InvalidInput

if TYPE_CHECKING:
    from reconciler.world.containers.wire import Client

_SECOND = 1_000_000_000  # the engine counts nanoseconds


def host_config(client: Client, spec: ContainerSpec, network: str, dns: list[str]) -> dict[str, Any]:
    """How the host treats the container."""
    bindings: dict[int | str, list[tuple[str, int]]] = {}
    for port in spec.ports:
        bindings.setdefault(f"{port.container}/{port.protocol}", []).append((port.address, port.host))
    made: dict[str, Any] = client.create_host_config(
        network_mode=network,
        cap_drop=["ALL"],
        cap_add=list(spec.cap_add),
        security_opt=["no-new-privileges:true"],
        privileged=False,
        pids_limit=spec.pids,
        mem_limit=spec.memory,
        memswap_limit=spec.memory,  # equal: no swap on top
        nano_cpus=None if spec.cpus is None else round(spec.cpus * _SECOND),
        init=True,
        read_only=spec.read_only,
        restart_policy={"Name": "unless-stopped" if spec.restart else "no"},
        log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3", "compress": "true"}),
        dns=dns,
        # "." means none: with the host's search domains `api` may become `api.example.com`, which is outside.
        dns_search=["."],
        mounts=[
            # Unlike `volumes=`, this fails on a directory that is not there instead of making an empty one.
            Mount(
                target=mount.target,
                source=mount.source,
                type=mount.kind,
                read_only=mount.read_only,
                no_copy=not mount.filled and mount.kind == "volume",
            )
            for mount in spec.mounts
        ],
        tmpfs={path: options for path, _, options in (each.partition(":") for each in spec.tmpfs)},
        port_bindings=bindings,
    )
    return made


def arguments(name: str, claim: Claim, spec: ContainerSpec, key: bytes) -> dict[str, Any]:
    """What the container is."""
    return {
        "image": spec.image,
        "name": name,
        "command": None if spec.command is None else list(spec.command),
        "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "user": spec.user,
        "working_dir": spec.working_dir,
        "environment": {variable: _text(variable, value) for variable, value in spec.environment.items()},
        "labels": {**spec.labels, **ownership.labels(name, claim, key)},
        "ports": [(port.container, port.protocol) for port in spec.ports],
        "healthcheck": None if spec.health is None else _healthcheck(spec.health),
        "stop_signal": spec.stop_signal,
        "stop_timeout": math.ceil(spec.stop_grace_period),
        "use_config_proxy": False,  # what root has in its ~/.docker is not part of any fingerprint
    }


def _text(variable: str, value: str | Secret) -> str:
    if isinstance(value, str):
        return value
    try:
        text = value.reveal().decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # checked here, so that no message of the engine can quote it
        raise InvalidInput(
            f"the secret {variable} is no text, so it cannot be an environment variable",
            reason="SecretNotText",
            remedy="Leave it out of secrets.environment; it is then a file in /run/secrets",
        )
    return text


def _healthcheck(health: HealthCommand) -> dict[str, object]:
    return {
        "test": ["CMD", *health.command],
        "interval": round(health.interval * _SECOND),
        "timeout": round(health.timeout * _SECOND),
        "retries": health.retries,
        "start_period": round(health.start_period * _SECOND),
    }

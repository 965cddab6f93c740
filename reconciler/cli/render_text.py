"""``reconciler render`` and ``validate``: what each app resolves to on this host, and what is wrong with manifests.

Invariant: a secret is named and never shown; nothing here reveals one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import yaml

from reconciler.cli.text import Style, clean, count, duration
from reconciler.core.desired import SECRETS_TARGET
from reconciler.core.model import Health, Ingress, Problem, Secret, Task
from reconciler.core.rollout import strategy_of
from reconciler.core.serialise import Json, plain
from reconciler.core.target import DesiredApp, Target

_HIDDEN = "(secret)"
_KIB = 1024
_WIDTH = 120


def render_text(targets: Mapping[str, Target], style: Style) -> str:
    """The resolved apps as YAML, each under its name."""
    if not targets:
        return "No apps belong on this host."
    blocks = []
    for name in sorted(targets):
        rendered = _target(targets[name])
        body = yaml.safe_dump(
            rendered, sort_keys=False, allow_unicode=True, default_flow_style=False, width=style.width or _WIDTH
        )
        lines = [f"  {line}" if line else line for line in body.splitlines()]
        blocks.append("\n".join([f"{style.bold(name)}:", *lines]))
    return "\n\n".join(blocks)


def render_json(targets: Mapping[str, Target]) -> dict[str, Json]:
    """The same for machines."""
    return {name: plain(_target(targets[name])) for name in sorted(targets)}


def problems_text(problems: Sequence[Problem], manifests: int, style: Style) -> str:
    """One line for each problem, as compilers print them, and a line that counts.

    Args:
        problems: In any order.
        manifests: How many were looked at.
        style: How to print.
    """
    lines = [_problem(problem, style) for problem in sorted(problems)]
    errors, warnings = _counts(problems)
    told = [count(number, noun) for number, noun in ((errors, "error"), (warnings, "warning")) if number]
    closing = f"{', '.join(told) or 'no problems'} in {count(manifests, 'manifest')}"
    paint = style.bad if errors else style.warn if warnings else style.good
    return "\n".join([*lines, paint(closing)])


def problems_json(problems: Sequence[Problem], manifests: int) -> dict[str, Json]:
    """The same for machines."""
    errors, warnings = _counts(problems)
    listed: list[Json] = [plain(problem) for problem in sorted(problems)]
    return {"manifests": manifests, "errors": errors, "warnings": warnings, "problems": listed}


def _counts(problems: Sequence[Problem]) -> tuple[int, int]:
    errors = sum(problem.severity == "error" for problem in problems)
    return errors, len(problems) - errors


def _problem(problem: Problem, style: Style) -> str:
    place = f"{problem.path}:{problem.line}:{problem.column}" if problem.line else problem.path
    kind = style.warn("warning: ") if problem.severity == "warning" else ""
    return f"{style.bold(clean(place))}: {kind}{clean(problem.message)}"


# --- one app --------------------------------------------------------------------------------------------------------


def _target(target: Target) -> dict[str, Json]:
    rendered: dict[str, Json] = {}
    if target.blocked is not None:
        rendered["blocked"] = f"{target.blocked.reason}: {target.blocked.message}"
    if target.pull is not None:
        rendered["pull"] = target.pull.reference
    if target.desired is None:
        rendered["desired"] = "unknown; the app is left as it is"
        return rendered
    rendered.update({key: value for key, value in _desired(target.desired) if value not in (None, [], {}, "")})
    return rendered


def _desired(desired: DesiredApp) -> Iterator[tuple[str, Json]]:
    app, spec = desired.app, desired.spec
    strategy, because = strategy_of(app)
    yield "manifest", app.manifest
    yield "revision", desired.revision
    yield "fingerprint", desired.fingerprint
    yield "image", app.image
    yield "image_id", spec.image
    yield "replicas", app.replicas
    yield "entrypoint", _words(spec.entrypoint)
    yield "command", _words(spec.command)
    yield "user", spec.user
    yield "working_dir", spec.working_dir
    yield "environment", {k: _HIDDEN if isinstance(v, Secret) else v for k, v in sorted(spec.environment.items())}
    yield "secrets", _secrets(desired)
    yield "files", _files(desired)
    yield "mounts", [_mount(m.kind, m.source, m.target, read_only=m.read_only) for m in spec.mounts]
    yield "tmpfs", _words(spec.tmpfs)
    yield "ports", [f"{p.address}:{p.host} -> {p.container}/{p.protocol}" for p in spec.ports]
    yield "labels", dict(sorted(spec.labels.items()))
    yield "limits", _limits(desired)
    yield "cap_add", _words(spec.cap_add)
    yield "read_only", spec.read_only or None
    yield "health", _health(app.health)
    yield "ingress", [_ingress(ingress) for ingress in app.ingress]
    yield "depends_on", list(app.depends_on)
    yield "before_deploy", _task(app.before_deploy)
    yield "after_deploy", _task(app.after_deploy)
    rollout: dict[str, Json] = {"strategy": strategy, "because": because, "drain": duration(app.rollout.drain)}
    if strategy == "rolling":
        rollout["max_parallel"] = app.rollout.max_parallel
    if strategy == "canary":
        rollout["steps"] = [{"weight": step.weight, "for": duration(step.seconds)} for step in app.rollout.steps]
        rollout |= {"bake": duration(app.rollout.bake), "max_errors": app.rollout.max_errors}
    yield "rollout", rollout
    yield "stop", {"signal": spec.stop_signal or "SIGTERM", "grace_period": duration(spec.stop_grace_period)}
    yield "pull_policy", app.pull_policy
    if app.registry_credentials is not None:
        yield "registry_credentials", f"{_HIDDEN} from {app.registry_credentials.file}"


def _words(words: Sequence[str] | None) -> Json:
    return None if words is None else list(words)


def _secrets(desired: DesiredApp) -> Json:
    if desired.app.secrets is None:
        return None
    variables = [name for name, value in sorted(desired.spec.environment.items()) if isinstance(value, Secret)]
    return {
        "from": desired.app.secrets.file,
        "environment": list(variables),
        "files": [f"{SECRETS_TARGET}/{name}" for name in sorted(desired.secret_files)],
    }


def _files(desired: DesiredApp) -> Json:
    sizes = {file.target: len(file.content) for file in desired.files}
    return [
        f"{file.source} -> {file.target} (mode {file.mode:04o}, {_size(sizes.get(file.target, 0))})"
        for file in desired.app.files
    ]


def _mount(kind: str, source: str, target: str, *, read_only: bool) -> str:
    return f"{kind} {source} -> {target}{' (read-only)' if read_only else ''}"


def _limits(desired: DesiredApp) -> Json:
    spec = desired.spec
    limits: dict[str, Json] = {"memory": _size(spec.memory), "pids": spec.pids}
    return limits if spec.cpus is None else {"cpus": spec.cpus, **limits}


def _health(health: Health) -> Json:
    check = ""
    match health.kind:
        case "http":
            check = f"GET :{health.port}{health.path}"
        case "tcp":
            check = f"port {health.port} accepts connections"
        case "command":
            check = " ".join(health.command)
        case "engine":
            return {"check": "the image's HEALTHCHECK, where it has one", **_patience(health)}
    rhythm: dict[str, Json] = {
        "check": check,
        "interval": duration(health.interval),
        "timeout": duration(health.timeout),
        "retries": health.retries,
    }
    if health.start_period:
        rhythm["start_period"] = duration(health.start_period)
    return {**rhythm, **_patience(health)}


def _patience(health: Health) -> dict[str, Json]:
    return {"min_healthy_time": duration(health.min_healthy_time), "deadline": duration(health.deadline)}


def _ingress(ingress: Ingress) -> str:
    scheme = "https" if ingress.tls == "auto" else "http"
    limits = f"body up to {_size(ingress.max_body)}, timeout {duration(ingress.timeout)}"
    return f"{scheme}://{ingress.host}{ingress.path} -> port {ingress.port} ({limits})"


def _task(task: Task | None) -> Json:
    if task is None:
        return None
    elsewhere: dict[str, Json] = {"on": task.on, "check": list(task.check)} if task.on else {}
    return {"command": list(task.command), "timeout": duration(task.timeout), **elsewhere}


def _size(size: int) -> str:
    """``512 MiB``, ``1.5 GiB``, ``17 B``."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < _KIB:
            break
        value, unit = value / _KIB, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"

"""The schemas promise something to editors and people: nothing in them is accepted and then ignored."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness.trees import MemoryTree
from jsonschema import Draft202012Validator

from reconciler import schema
from reconciler.core.document import read
from reconciler.core.manifest import ManifestReader
from reconciler.core.model import App, Catalog
from reconciler.core.validation import Validator
from reconciler.errors import InvalidSettings
from reconciler.settings import Settings, load_settings

ALL = {f"{name}.schema.json": schema.load(name) for name in schema.NAMES}
READER = ManifestReader({name: schema.load(name) for name in schema.NAMES})
Path_ = tuple[str, ...]

KNOWN_KEYWORDS = {  # those that ``core.validation`` has words for
    *("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("maxProperties", "uniqueItems", "properties", "additionalProperties", "propertyNames", "items", "required"),
    *("dependentRequired", "dependentSchemas", "not"),
    *("$schema", "$id", "$ref", "$defs", "title", "description", "examples", "default"),
    *("patternErrorMessage", "x-private", "x-instead", "x-unit"),
}


def subschemas(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield part
    for keyword in ("items", "additionalProperties", "propertyNames"):
        if isinstance(part.get(keyword), dict):
            yield from subschemas(part[keyword])
    for keyword in ("properties", "$defs", "dependentSchemas"):
        for each in part.get(keyword, {}).values():
            yield from subschemas(each)


def resolved(part: Mapping[str, Any], home: str) -> tuple[Mapping[str, Any], str]:
    if "$ref" not in part:
        return part, home
    file, _, pointer = part["$ref"].partition("#/")
    target: Any = ALL[file or home]
    for step in pointer.split("/"):
        target = target[step]
    below, _ = resolved(target, file or home)
    return {**below, **{key: value for key, value in part.items() if key != "$ref"}}, file or home


def properties(part: Mapping[str, Any], home: str, path: Path_ = ()) -> Iterator[tuple[Path_, Mapping[str, Any], str]]:
    """Every property below a schema, lists looked into: (path, schema, file it stands in)."""
    part, home = resolved(part, home)
    for name, found in part.get("properties", {}).items():
        full, where = resolved(found, home)
        yield (*path, name), full, where
        yield from properties(full, where, (*path, name))
    for keyword in ("items", "additionalProperties"):
        if isinstance(part.get(keyword), dict):
            yield from properties(part[keyword], home, path)


PROPERTIES = [
    pytest.param(file, path, found, home, id=f"{file.partition('.')[0]}:{'.'.join(path)}")
    for file, whole in ALL.items()
    for path, found, home in properties(whole, file)
]


@pytest.mark.parametrize("file", ALL)
def test_is_a_schema(file: str) -> None:
    Draft202012Validator.check_schema(ALL[file])
    assert ALL[file]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert ALL[file]["$id"].endswith(f"/{file}")
    assert ALL[file]["title"]
    assert ALL[file]["description"]
    for part in subschemas(ALL[file]):
        assert set(part) <= KNOWN_KEYWORDS, "core.validation has no words for this keyword"
        assert part.get("type") != "object" or part.get("additionalProperties", True) is not True or "items" in part
        if "properties" in part and "type" in part:
            assert part["additionalProperties"] is False
        if "enum" in part:
            assert part["type"] == "string"
        if "minimum" in part or "maximum" in part:
            assert {"minimum", "maximum"} <= set(part)


@pytest.mark.parametrize("file", ALL)
def test_patterns_mean_the_same_to_python_and_to_editors(file: str) -> None:
    for part in subschemas(ALL[file]):
        if "pattern" in part:
            pattern = part["pattern"]
            assert pattern.startswith("^")
            assert pattern.endswith("$")
            assert not re.search(r"\\[dDwWsSbBAZ]|\(\?[P#<]|\(\?:|\[[^]]*\$[^]]*\]", pattern), pattern
            assert part["patternErrorMessage"].startswith("must be")
            assert "maxLength" in part or re.fullmatch(r"[^*+]*|\^\[0-9\].*", pattern), "bounded before it is matched"


@pytest.mark.parametrize(("file", "path", "found", "home"), PROPERTIES)
def test_every_property_is_described_and_its_examples_hold(
    file: str, path: Path_, found: Mapping[str, Any], home: str
) -> None:
    assert found["description"].endswith((".", "...")), f"{file} {path}"
    assert found["examples"]
    # The property's own schema, with references resolved from the file it stands in.
    validator = Validator({"$ref": f"{home}#/this"}, {**ALL, home: {**ALL[home], "this": found}})
    for example in [*found["examples"], *([found["default"]] if "default" in found else [])]:
        document = read("example.json", json.dumps(example).encode())
        assert document.root is not None
        assert validator.check(document.root).problems == ()


@pytest.mark.parametrize("file", ALL)
def test_examples_of_whole_files_hold(file: str) -> None:
    assert ALL[file]["examples"]
    for example in ALL[file]["examples"]:
        document = read("example.json", json.dumps(example).encode())
        assert document.root is not None
        assert Validator(ALL[file], ALL).check(document.root).problems == ()


# --- everything reaches the model -----------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "kind": "App",
    "name": "shop",
    "image": "registry.example.com/shop:1",
    "replicas": 2,
    "hosts": ["web"],
    "command": ["serve"],
    "entrypoint": ["/start"],
    "user": "app",
    "working_dir": "/srv",
    "environment": {"A": "b"},
    "secrets": {"file": "secrets.sops.yaml", "environment": ["KEY"]},
    "files": [{"source": "a.toml", "target": "/a.toml", "mode": "0400"}],
    "volumes": ["data:/data"],
    "tmpfs": ["/cache"],
    "labels": {"a": "b"},
    "health": {
        "http": "/healthz",
        "port": 8081,
        "interval": "6s",
        "timeout": "3s",
        "retries": 4,
        "start_period": "1s",
        "min_healthy_time": "2s",
        "deadline": "3m",
    },
    "resources": {"cpus": 1, "memory": "256MiB", "pids": 99},
    "cap_add": ["CHOWN"],
    "read_only": True,
    "ingress": [
        {"host": "a.example.com", "path": "/a", "port": 80, "tls": "auto", "max_body": "2MiB", "timeout": "61s"}
    ],
    "rollout": {"strategy": "recreate", "drain": "31s", "max_parallel": 2},
    "depends_on": ["db"],
    "before_deploy": {"command": ["migrate"], "timeout": "6m", "on": "web-1", "check": ["is-migrated"]},
    "after_deploy": {"command": ["warm"], "timeout": "7m"},
    "rehearse_rollback": {"command": ["check"]},
    "stop_grace_period": "11s",
    "stop_signal": "SIGQUIT",
    "pull_policy": "always",
    "registry_credentials": {"file": "registry.sops.yaml", "username": "USER", "password": "PASS"},
}
OTHERS: list[dict[str, Any]] = [
    {"kind": "App", "image": "x", "ports": ["80:80"], "health": {"tcp": 5432}},
    {"kind": "App", "image": "x", "health": {"command": ["check"]}},
    {
        "kind": "App",
        "image": "x",
        "ingress": [{"host": "a.example.com", "port": 80}],
        "rollout": {"strategy": "canary", "steps": [{"weight": 10, "for": "5m"}], "bake": "1m", "max_errors": 1},
    },
]
INSTEAD = {  # for what may not be left out
    ("image",): "registry.example.com/shop:2",
    ("health", "http"): "/other",
    ("secrets", "file"): "other.sops.yaml",
    ("files", "source"): "b.toml",
    ("files", "target"): "/b.toml",
    ("ingress", "host"): "b.example.com",
    ("ingress", "port"): 81,
    ("before_deploy", "command"): ["other"],
    ("rehearse_rollback", "command"): ["other"],
    ("before_deploy", "on"): "web-2",
    ("before_deploy", "check"): ["other"],
    ("after_deploy", "command"): ["other"],
    ("rollout", "steps", "weight"): 20,
    ("rollout", "steps", "for"): "6m",
    ("registry_credentials", "file"): "other.sops.yaml",
}
NOT_READ = {("$schema",), ("kind",)}
SOPS = {"mac": "ENC[x]", "age": [{"recipient": "age1x"}]}
SEALED = json.dumps({**dict.fromkeys(["KEY", "USER", "PASS", "username", "password"], "ENC[x]"), "sops": SOPS})
FLEET = {"kind": "Fleet", "hosts": {name: {"labels": ["web"]} for name in ("web-1", "web-2")}}


def catalog(manifest: Mapping[str, Any], fleet: Mapping[str, Any] = FLEET) -> Catalog:
    return READER.read(
        MemoryTree(
            {
                "fleet.json": json.dumps(fleet),
                "apps/it/app.json": json.dumps(manifest),
                "apps/it/secrets.sops.yaml": SEALED,
                "apps/it/other.sops.yaml": SEALED,
                "apps/it/registry.sops.yaml": SEALED,
                "apps/it/a.toml": "a",
                "apps/it/b.toml": "b",
                "apps/db/app.json": json.dumps({"kind": "App", "image": "db"}),
            }
        )
    )


def app(manifest: Mapping[str, Any], fleet: Mapping[str, Any] = FLEET) -> App:
    found = catalog(manifest, fleet)
    assert not found.problems
    return next(each for each in found.apps.values() if each.manifest == "apps/it/app.json")


def leaves(value: object, path: Path_ = ()) -> Iterator[Path_]:
    if path:
        yield path
    if isinstance(value, dict) and path not in {("environment",), ("labels",)}:
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for key, each in value[0].items():
            yield from leaves(each, (*path, key))


def changed(value: Mapping[str, Any], path: Path_) -> dict[str, Any]:
    copied: dict[str, Any] = copy.deepcopy(dict(value))
    target = copied
    for step in path[:-1]:
        found = target[step]
        target = found[0] if isinstance(found, list) else found
    if path in INSTEAD:
        target[path[-1]] = INSTEAD[path]
    else:
        del target[path[-1]]
    return copied


def test_no_property_of_an_app_is_ignored() -> None:
    covered = set()
    for manifest in [EVERYTHING, *OTHERS]:
        whole = app(manifest)
        for path in set(leaves(manifest)) - NOT_READ:
            covered.add(path)
            canary = "steps" in manifest.get("rollout", {})
            if canary and path in {("ingress",), ("rollout", "strategy"), ("rollout", "steps")}:
                continue  # none of them is right without the others
            assert app(changed(manifest, path)) != whole, f"{path} makes no difference"
    assert covered == {path for path, _, _ in properties(ALL["app.schema.json"], "app.schema.json")} - NOT_READ


def test_defaults_in_the_app_schema_are_those_of_the_model() -> None:
    manifest = {**EVERYTHING, "health": {"http": "/"}}
    for path, found, _ in properties(ALL["app.schema.json"], "app.schema.json"):
        if "default" in found and path[0] != "volumes":
            without = changed(manifest, path) if set(leaves(manifest)) >= {path} else copy.deepcopy(manifest)
            explicit: Any = copy.deepcopy(without)
            target = explicit
            for step in path[:-1]:
                target = target[step][0] if isinstance(target[step], list) else target[step]
            target[path[-1]] = found["default"]
            assert app(explicit) == app(without), path


def test_no_property_of_the_fleet_is_ignored() -> None:
    fleet: dict[str, Any] = {
        "kind": "Fleet",
        "hosts": {"web-1": {"address": "192.0.2.1", "labels": ["web"]}},
        "defaults": {
            "user": "somebody",
            "environment": {"X": "y"},
            "labels": {"x": "y"},
            "health": {key: value for key, value in EVERYTHING["health"].items() if key not in {"http", "port"}},
            "resources": {"cpus": 2, "memory": "128MiB", "pids": 98},
            "read_only": True,
            "rollout": {
                "strategy": "recreate",
                "drain": "32s",
                "max_parallel": 3,
                "steps": [{"weight": 10, "for": "5m"}],
                "bake": "1m",
                "max_errors": 1,
            },
            "stop_grace_period": "12s",
            "pull_policy": "never",
        },
    }
    manifest = {"kind": "App", "image": "x", "hosts": ["web-1"]}
    whole = catalog(manifest, fleet)
    assert not whole.problems
    paths = {path for path in leaves(fleet["defaults"]) if path[0] not in {"environment", "labels"} or len(path) == 1}
    for path in paths:
        found = catalog(manifest, {**fleet, "defaults": changed(fleet["defaults"], path)})
        assert found.apps["it"] != whole.apps["it"], path
    schema_paths = {path for path, _, _ in properties(ALL["fleet.schema.json"], "fleet.schema.json")}
    assert {("defaults", *path) for path in paths} == {
        path for path in schema_paths if path[0] == "defaults" and path[1:]
    }
    for key in ("address", "labels"):
        hosts = changed(fleet["hosts"], ("web-1", key))
        assert catalog(manifest, {**fleet, "hosts": hosts}).fleet != whole.fleet
    assert schema_paths >= {("hosts", "address"), ("hosts", "labels")}


AGENT: dict[str, Any] = {
    "host": "web-9",
    "repository": {
        "url": "git@git.example.com:config.git",
        "branch": "prod",
        "directory": "prod",
        "interval": "31s",
        "timeout": "32s",
        "ssh_key": "key",
        "known_hosts": "known",
    },
    "docker": {"socket": "docker.sock", "network": "apps", "subnet": "10.99.0.0/16"},
    "nginx": {
        "command": ["/opt/nginx", "-q"],
        "config": "nginx.conf",
        "http": 8080,
        "https": 8443,
        "address": "127.0.0.1",
        "default_server": False,
        "certificates": "certificates",
        "reload_timeout": "6s",
    },
    "names": {"command": "/opt/dnsmasq", "start": False, "upstream": ["192.0.2.53#5353"]},
    "sops": {"command": "bin/sops", "age_key": "age.key"},
    "state": "state",
    "runtime": "run",
    "listen": "127.0.0.1:9999",
    "policy": {"registries": ["registry.example.com"], "bind_sources": ["/srv"], "capabilities": ["NET_ADMIN"]},
}
WITH_TOKEN: dict[str, Any] = {
    "repository": {"url": "https://git.example.com/config.git", "token_file": "token", "username": "oauth2"}
}


def agent(tmp_path: Path, value: Mapping[str, Any]) -> Settings:
    file = tmp_path / "agent.json"
    file.write_text(json.dumps(value))
    return load_settings(file)


def test_no_setting_of_the_agent_is_ignored(tmp_path: Path) -> None:
    covered = set()
    for value in (AGENT, WITH_TOKEN):
        whole = agent(tmp_path, value)
        for path in leaves(value):
            covered.add(path)
            if path == ("repository",):
                with pytest.raises(InvalidSettings, match="lacks 'repository'"):
                    agent(tmp_path, changed(value, path))
                continue
            if path == ("repository", "url"):
                other = copy.deepcopy(value)
                other["repository"]["url"] += "x"
                assert agent(tmp_path, other) != whole
                continue
            assert agent(tmp_path, changed(value, path)) != whole, f"{path} makes no difference"
    assert covered == {path for path, _, _ in properties(ALL["agent.schema.json"], "agent.schema.json")} - {
        ("$schema",)
    }


def test_defaults_in_the_agent_schema_are_those_of_the_settings(tmp_path: Path) -> None:
    for path, found, _ in properties(ALL["agent.schema.json"], "agent.schema.json"):
        if "default" in found:
            base: Any = {"repository": {"url": "https://git.example.com/x"}}
            if path == ("repository", "username"):
                base["repository"]["token_file"] = "t"  # noqa: S105  (a file's name)
            explicit = copy.deepcopy(base)
            target = explicit
            for step in path[:-1]:
                target = target.setdefault(step, {})
            target[path[-1]] = found["default"]
            assert agent(tmp_path, explicit) == agent(tmp_path, base), path


# --- shipping -------------------------------------------------------------------------------------------------------


def test_text_is_the_file_and_other_names_are_unknown() -> None:
    root = Path(__file__).parent.parent / "schemas"
    assert {file.name for file in root.iterdir()} == set(ALL)
    for name in schema.NAMES:
        assert schema.text(name) == (root / f"{name}.schema.json").read_text()
    with pytest.raises(KeyError):
        schema.text("../../etc/passwd")


def test_the_wheel_brings_them(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    script = (
        "from reconciler import schema; print(schema.__file__); print(*(schema.text(n) for n in schema.NAMES), sep='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    origin, _, text = done.stdout.partition("\n")
    assert origin.startswith(str(tmp_path))
    assert text.strip() == "".join(schema.text(name) for name in schema.NAMES).strip()

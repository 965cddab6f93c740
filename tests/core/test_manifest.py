"""Manifests, from files to a catalog. The many ways to be wrong are files: ``manifests/NAME.yaml`` beside
``NAME.problems``, and whole trees in ``manifests/trees/``. ``UPDATE_GOLDEN=1`` refreshes the expected problems.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.golden import assert_golden
from harness.trees import MemoryTree

from reconciler import schema
from reconciler.core import manifest
from reconciler.core.manifest import ManifestReader
from reconciler.core.model import App, BrokenManifest, Catalog, File, Health, Ingress, PublishedPort, Task, Volume

CASES = Path(__file__).parent / "manifests"
FILES = sorted(file for file in CASES.iterdir() if file.suffix in {".yaml", ".json"})
TREES = sorted(file for file in (CASES / "trees").iterdir() if file.is_dir())


@pytest.fixture(scope="module")
def reader() -> ManifestReader:
    return ManifestReader({name: schema.load(name) for name in schema.NAMES})


def summary(catalog: Catalog) -> str:
    lines = [f"{'warning: ' if each.severity == 'warning' else ''}{each}" for each in catalog.problems]
    lines += [f"= {name} can be used" for name in catalog.apps]
    lines += [f"= {each.path} is broken ({each.app or 'nobody knows which app'})" for each in catalog.broken]
    lines += ["= the fleet is broken"] if catalog.fleet_broken else []
    return "\n".join(lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_bad_manifest(file: Path, reader: ManifestReader) -> None:
    catalog = reader.read(MemoryTree({f"apps/shop/app{file.suffix}": file.read_bytes()}))
    assert catalog.problems
    assert not catalog.apps
    assert_golden(file.with_suffix(".problems"), summary(catalog))


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_tree(tree: Path, reader: ManifestReader) -> None:
    assert_golden(tree.with_suffix(".problems"), summary(reader.read(MemoryTree.of(tree))))


SEALED = "A: ENC[x]\nB: ENC[x]\nsops: {mac: 'ENC[x]', age: [{recipient: age1x}]}\n"


def one(reader: ManifestReader, text: str, **further: str) -> App:
    """The only app of a tree."""
    catalog = reader.read(MemoryTree({"apps/shop/app.yaml": f"kind: App\nimage: x\n{text}", **further}))
    assert catalog.problems == ()
    (app,) = catalog.apps.values()
    return app


def test_the_manifest_of_the_design(reader: ManifestReader) -> None:
    text = """
    name: shop
    replicas: 2
    hosts: [web]
    environment: {LOG_LEVEL: info}
    secrets: {file: secrets.sops.yaml, environment: [A]}
    health: {http: /healthz, port: 8080}
    resources: {cpus: 1, memory: 512MiB}
    ingress: [{host: shop.example.com, path: /, port: 8080, tls: auto}]
    rollout: {strategy: blue_green}
    before_deploy: {command: [./manage.py, migrate], timeout: 5m}
    """
    text = text.replace("\n    ", "\n")
    app = one(reader, text, **{"apps/shop/secrets.sops.yaml": SEALED})
    assert (app.name, app.manifest, app.folder, app.hosts) == ("shop", "apps/shop/app.yaml", "apps/shop", ("web",))
    assert app.health == Health("http", path="/healthz", port=8080)
    assert app.ingress == (Ingress("shop.example.com", "/", 8080, tls="auto"),)
    assert app.before_deploy == Task(("./manage.py", "migrate"), 300)
    assert app.secrets is not None
    assert (app.secrets.file, app.secrets.environment) == ("apps/shop/secrets.sops.yaml", ("A",))


def test_environment_reaches_the_container_as_it_was_written(reader: ManifestReader) -> None:
    app = one(
        reader,
        """
environment:
  VERSION: 1.10
  OCTAL: 012
  TIME: 1:30
  DATE: 2026-01-01
  NO: no
  YES: True
  BIG: 123456789012345678901234567890
  COMMIT: 12e4567
  FLOAT: 1e3
  EMPTY: ""
  LINES: |
    a
    b
labels: {version: 1.10, on: off}
user: 1000
""",
    )
    assert app.environment == {
        "VERSION": "1.10",
        "OCTAL": "012",
        "TIME": "1:30",
        "DATE": "2026-01-01",
        "NO": "no",
        "YES": "True",
        "BIG": "123456789012345678901234567890",
        "COMMIT": "12e4567",
        "FLOAT": "1e3",
        "EMPTY": "",
        "LINES": "a\nb\n",
    }
    assert app.labels == {"version": "1.10", "on": "off"}
    assert app.user == "1000"


def test_composes_short_forms(reader: ManifestReader) -> None:
    app = one(
        reader,
        """
command: serve --name "a b" 'c'
entrypoint: [/start, "--x y"]
volumes: ["data:/data", "/srv/in:/in:ro", "cache:/cache:rw"]
ports: [8080:80, "127.0.0.1:53:5353/udp", 22:22]
files: [{source: ./a.toml, target: /a}, {source: /shared/b, target: /b, mode: 0755}, {source: ../c, target: /c}]
""",
        **{"apps/shop/a.toml": "", "shared/b": "", "apps/c": ""},
    )
    assert app.command == ("serve", "--name", "a b", "c")
    assert app.entrypoint == ("/start", "--x y")
    assert app.volumes == (Volume("data", "/data"), Volume("/srv/in", "/in", read_only=True), Volume("cache", "/cache"))
    assert app.ports == (
        PublishedPort(8080, 80),
        PublishedPort(53, 5353, "udp", "127.0.0.1"),
        PublishedPort(22, 22),
    )
    assert app.files == (File("apps/shop/a.toml", "/a"), File("shared/b", "/b", 0o755), File("apps/c", "/c"))


@pytest.mark.parametrize(
    ("text", "health"),
    [
        ("", Health("engine")),
        ("health: {deadline: 5m}", Health("engine", deadline=300)),
        ("ingress: [{host: a.example.com, port: 81}, {host: b.example.com, port: 82}]", Health("tcp", port=81)),
        ("ingress: [{host: a.example.com, port: 81}]\nhealth: {http: /}", Health("http", port=81)),
        ("ingress: [{host: a.example.com, port: 81}]\nhealth: {http: /, port: 9}", Health("http", port=9)),
        ("ingress: [{host: a.example.com, port: 81}]\nhealth: {tcp: 9}", Health("tcp", port=9)),
        (
            "health: {command: pg_isready -U x, retries: 5}",
            Health("command", command=("pg_isready", "-U", "x"), retries=5),
        ),
    ],
)
def test_health(reader: ManifestReader, text: str, health: Health) -> None:
    assert one(reader, text).health == health


def test_what_the_app_says_wins_over_defaults_key_by_key(reader: ManifestReader) -> None:
    fleet = """
kind: Fleet
defaults:
  user: nobody
  environment: {TZ: Europe/Berlin, LOG_LEVEL: warn}
  resources: {cpus: 2, memory: 1g}
  health: {interval: 9s}
  rollout: {drain: 1m}
"""
    text = "environment: {LOG_LEVEL: info}\nresources: {memory: 64m}\nhealth: {tcp: 1}\nuser: root\n"
    app = one(reader, text, **{"fleet.yaml": fleet})
    assert app.environment == {"TZ": "Europe/Berlin", "LOG_LEVEL": "info"}
    assert (app.resources.cpus, app.resources.memory) == (2, 64 * 1024**2)
    assert app.health == Health("tcp", port=1, interval=9)
    assert (app.rollout.drain, app.user) == (60, "root")


def test_a_fleet_without_hosts_knows_no_hosts(reader: ManifestReader) -> None:
    files = {"fleet.yaml": "kind: Fleet\n", "apps/shop/app.yaml": "kind: App\nimage: x\nhosts: [anywhere]\n"}
    catalog = reader.read(MemoryTree(files))
    assert catalog.fleet is None
    assert catalog.apps["shop"].hosts == ("anywhere",)


def test_one_bad_manifest_never_holds_up_another(reader: ManifestReader) -> None:
    catalog = reader.read(
        MemoryTree(
            {
                "apps/good/app.yaml": "kind: App\nimage: x\ndepends_on: [bad]\n",
                "apps/bad/app.yaml": "kind: [\n",
                "README.md": "kind: App",
                "apps/good/other.yaml": "{{{",
            }
        )
    )
    assert list(catalog.apps) == ["good"]
    assert [(broken.path, broken.app) for broken in catalog.broken] == [("apps/bad/app.yaml", "bad")]
    assert {problem.app for problem in catalog.problems} == {"bad"}


def test_too_large_a_manifest_is_not_even_read(reader: ManifestReader) -> None:
    tree = MemoryTree({"apps/shop/app.yaml": b"#" * 300_000})
    assert [str(problem) for problem in reader.read(tree).problems] == [
        "apps/shop/app.yaml:1:1: the file has 300000 bytes; at most 262144 are allowed"
    ]
    assert tree.reads == []


def test_files_that_no_tree_reads(reader: ManifestReader) -> None:
    text = "kind: App\nimage: x\nfiles: [{source: big, target: /big}]\nsecrets: {file: s.sops.yaml}\n"
    tree = MemoryTree({"a/app.yaml": text, "a/big": b"x" * 2_000_000, "a/s.sops.yaml": b"sops: ENC[" * 200_000})
    assert [str(problem) for problem in reader.read(tree).problems] == [
        "a/app.yaml:3:18: a/big has 2000000 bytes; at most 1048576 can be mounted; use a volume",
        "a/s.sops.yaml:1:1: the file has 2000000 bytes; at most 1048576 are allowed",
    ]
    assert tree.reads == ["a/app.yaml"]


def test_what_has_not_changed_is_not_read_again() -> None:
    reader = ManifestReader({name: schema.load(name) for name in schema.NAMES})
    files = {
        "apps/a/app.yaml": "kind: App\nimage: x\nsecrets: {file: s.sops.yaml}\n",
        "apps/a/s.sops.yaml": SEALED,
        "apps/b/app.yaml": "kind: App\nimage: x\n",
        "apps/b/App.yaml": "kind: App",
        "fleet.yaml": "kind: Fleet\n",
    }
    first = MemoryTree(files)
    catalog = reader.read(first)
    assert sorted(first.reads) == ["apps/a/app.yaml", "apps/a/s.sops.yaml", "apps/b/app.yaml", "fleet.yaml"]
    again = MemoryTree(files)
    assert reader.read(again) is catalog
    changed = MemoryTree({**files, "apps/b/app.yaml": "kind: App\nimage: y\n", "README.md": "x"})
    after = reader.read(changed)
    assert after.apps["b"].image == "y"
    assert after.apps["a"] is catalog.apps["a"]
    assert again.reads == []
    assert changed.reads == ["apps/b/app.yaml"]
    assert reader.read(first) is catalog, "an older revision is still known"
    moved = MemoryTree({"apps/c/app.yaml": files["apps/b/app.yaml"]})
    assert list(reader.read(moved).apps) == ["c"], "the same blob elsewhere is another app"


def test_changed_defaults_reach_unchanged_manifests() -> None:
    reader = ManifestReader({name: schema.load(name) for name in schema.NAMES})
    for user in ("one", "two", "one"):
        files = {"fleet.yaml": f"kind: Fleet\ndefaults: {{user: {user}}}\n", "apps/a/app.yaml": "kind: App\nimage: x\n"}
        assert reader.read(MemoryTree(files)).apps["a"].user == user
    assert reader.read(MemoryTree({"apps/a/app.yaml": "kind: App\nimage: x\n"})).apps["a"].user is None


def test_old_revisions_are_forgotten_in_the_end() -> None:
    reader = ManifestReader({name: schema.load(name) for name in schema.NAMES})
    first = MemoryTree({"apps/a/app.yaml": "kind: App\nimage: x:0\n"})
    reader.read(first)
    for number in range(1, 40):
        reader.read(MemoryTree({"apps/a/app.yaml": f"kind: App\nimage: x:{number}\n"}))
    first.reads.clear()
    assert reader.read(first).apps["a"].image == "x:0"
    assert first.reads == ["apps/a/app.yaml"]


def test_remote_references_are_never_fetched() -> None:
    """jsonschema fetches an unknown ``$ref`` over HTTP unless it is told otherwise; ours are all resolved before."""
    for name in schema.NAMES:
        for reference in (line for line in schema.text(name).splitlines() if '"$ref"' in line):
            assert '"$ref": "#/' in reference or '"$ref": "app.schema.json#/' in reference


def test_more_manifests_than_are_read(reader: ManifestReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_MOST", 2)
    tree = MemoryTree({f"apps/{name}/app.yaml": "kind: App\nimage: x\n" for name in "dcba"})
    catalog = reader.read(tree)
    assert sorted(catalog.apps) == ["a", "b"]
    assert catalog.broken == (BrokenManifest("apps/c/app.yaml", None), BrokenManifest("apps/d/app.yaml", None))
    assert "apps/c/app.yaml:1:1: this manifest is not read: 2 with" in str(catalog.problems[0])
    assert sorted(tree.reads) == ["apps/a/app.yaml", "apps/b/app.yaml"]


def test_more_bytes_of_manifests_than_are_read(reader: ManifestReader) -> None:
    text = "kind: App\nimage: x\n#" + "x" * 250_000
    catalog = reader.read(MemoryTree({f"apps/a{number:03}/app.yaml": text for number in range(300)}))
    assert len(catalog.apps) == 16
    assert len(catalog.broken) == 284
    assert len(catalog.problems) == 200
    assert {broken.app for broken in catalog.broken} == {None}


def test_more_misspelt_manifests_than_are_read(reader: ManifestReader) -> None:
    tree = MemoryTree({f"apps/a{number:03}/App.yaml": "kind: App\nimage: x\n" for number in range(250)})
    catalog = reader.read(tree)
    assert len(tree.reads) == 200
    assert [broken.app for broken in catalog.broken].count(None) == 50


@pytest.mark.parametrize("user", ["99999999999", "2147483648", "'1:2147483648'", "'app:99999999999'"])
def test_a_user_that_no_kernel_knows(reader: ManifestReader, user: str) -> None:
    catalog = reader.read(MemoryTree({"apps/shop/app.yaml": f"kind: App\nimage: x\nuser: {user}\n"}))
    assert "2147483647" in str(catalog.problems[0])
    assert one(reader, "user: 2147483647:2147483647\n").user == "2147483647:2147483647"

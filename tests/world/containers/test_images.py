from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from harness.engine import PrivateEngine
from harness.labs import KEY, NETWORK, SUBNET
from harness.registry import PASSWORD, USERNAME, Registry
from harness.scripted_engine import ScriptedEngine, error, silence, trickle

from reconciler.core import ownership
from reconciler.core.model import Secret
from reconciler.errors import Failed, ReconcilerError, Refused, Unavailable
from reconciler.world.containers import DockerEngine, images, wire

REFERENCE = "registry.example.com/shop:1"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    made = Registry()
    made.start()
    yield made
    made.destroy()


@pytest.fixture
def api(engine: PrivateEngine) -> Iterator[docker.APIClient]:
    client = engine.client()
    others = references(client.api)
    yield client.api
    for reference in references(client.api) - others:
        client.api.remove_image(reference, force=True)
    client.close()


def references(api: docker.APIClient) -> frozenset[str]:
    return frozenset(reference for image in api.images() for reference in image["RepoTags"] or ()) - {"<none>:<none>"}


@pytest.fixture
def ours(engine: PrivateEngine, api: docker.APIClient) -> Iterator[DockerEngine]:  # noqa: ARG001  (cleans up after us)
    made = DockerEngine(engine.socket, NETWORK, SUBNET, KEY, ())
    yield made
    made.close()


# --- pulls from a real registry


def test_a_pull_tells_its_progress_and_names_the_digest(
    ours: DockerEngine, engine: PrivateEngine, registry: Registry
) -> None:
    engine.import_image("shop:1", files={"etc/shop": os.urandom(4096)})
    reference = registry.push(engine, "shop:1", "team/shop:1")
    client = engine.client()
    client.api.remove_image("shop:1")
    client.close()
    image = ours.pull(reference, None)
    state = ours.observe()
    name = state.digests[image]
    assert name.startswith(f"{registry.host}/team/shop@sha256:")
    assert (state.images[reference], state.images[name]) == (image, image)
    assert ours.pull(name, None) == image, "by digest too"


def test_a_tag_that_moved_is_another_image(ours: DockerEngine, engine: PrivateEngine, registry: Registry) -> None:
    pulled = []
    for content in (b"one", b"two"):
        engine.import_image("shop:1", files={"etc/version": content})
        pulled.append(ours.pull(registry.push(engine, "shop:1", "moving:1"), None))
    assert pulled[0] != pulled[1]
    assert ours.observe().images[f"{registry.host}/moving:1"] == pulled[1]


def test_a_full_disk_of_the_engine_is_said_so(ours: DockerEngine, engine: PrivateEngine, registry: Registry) -> None:
    engine.import_image("large:1", files={"large": os.urandom(8 * 1024 * 1024)})
    reference = registry.push(engine, "large:1", "large:1")
    client = engine.client()
    client.api.remove_image("large:1")
    client.close()
    # Where the engine puts what it downloads; a real full disk, but not this machine's.
    downloads = engine.root / "data" / "tmp"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(downloads)], check=True, timeout=10)
    try:
        with pytest.raises(Unavailable, match="no space left on device") as caught:
            ours.pull(reference, None)
        assert caught.value.reason == "DiskFull"
        assert "docker image prune" in caught.value.remedy
        assert reference not in ours.observe().images
    finally:
        subprocess.run(["umount", "-l", str(downloads)], check=True, timeout=10)
    assert ours.pull(reference, None), "with room again it works"


def test_a_registry_that_died_is_tried_again_and_works_when_it_is_back(
    ours: DockerEngine, engine: PrivateEngine
) -> None:
    registry = Registry(password=True)
    registry.start()
    try:
        engine.import_image("shop:1")
        reference = registry.push(engine, "shop:1", "shop:1")
        credentials = (USERNAME, Secret(PASSWORD.encode()))
        registry.stop()
        with pytest.raises(Unavailable, match=registry.host) as caught:
            ours.pull(reference, credentials)
        assert caught.value.reason == "RegistryUnavailable"
        assert PASSWORD not in str(caught.value)
        registry.start()
        assert ours.pull(reference, credentials)
    finally:
        registry.destroy()


def test_a_password_is_not_kept(ours: DockerEngine, engine: PrivateEngine) -> None:
    registry = Registry(password=True)
    registry.start()
    try:
        engine.import_image("shop:1")
        reference = registry.push(engine, "shop:1", "shop:1")
        ours.pull(reference, (USERNAME, Secret(PASSWORD.encode())))
        with pytest.raises(Failed) as caught:
            ours.pull(reference, None)
        assert caught.value.reason == "RegistryDenied"
    finally:
        registry.destroy()


# --- what other engines and registries say


@pytest.mark.parametrize(
    ("status", "text", "kind", "reason"),
    [
        (404, "manifest for registry.example.com/shop:1 not found: manifest unknown", Failed, "ImageNotFound"),
        (404, 'failed to resolve reference "registry.example.com/shop:1": not found', Failed, "ImageNotFound"),
        (500, "no matching manifest for linux/arm64/v8 in the manifest list entries", Failed, "ImageNotFound"),
        (400, "invalid reference format: repository name must be lowercase", Failed, "ImageNotFound"),
        (500, "unauthorized: authentication required", Failed, "RegistryDenied"),
        (
            500,
            'Head "https://registry.example.com/v2/shop/manifests/1": no basic auth credentials',
            Failed,
            "RegistryDenied",
        ),
        (
            404,
            (
                "pull access denied for shop, repository does not exist or may require 'docker login':"
                " denied: requested access to the resource is denied"
            ),
            Failed,
            "RegistryDenied",
        ),
        (
            500,
            (
                'failed to resolve reference "registry.example.com/shop:1": pull access denied, repository does not'
                " exist or may require authorization: authorization failed: no basic auth credentials"
            ),
            Failed,
            "RegistryDenied",
        ),
        (
            500,
            'Get "https://registry.example.com/v2/": dial tcp 192.0.2.1:443: connect: connection refused',
            Unavailable,
            "RegistryUnavailable",
        ),
        (
            500,
            'Get "https://registry.example.com/v2/": dial tcp: lookup registry.example.com: no such host',
            Unavailable,
            "RegistryUnavailable",
        ),
        (
            500,
            (
                'Get "https://registry.example.com/v2/": net/http: request canceled while waiting for connection'
                " (Client.Timeout exceeded while awaiting headers)"
            ),
            Unavailable,
            "RegistryUnavailable",
        ),
        (500, "x509: certificate signed by unknown authority", Unavailable, "RegistryUnavailable"),
        (500, "received unexpected HTTP status: 503 Service Unavailable", Unavailable, "RegistryUnavailable"),
        (
            429,
            "toomanyrequests: You have reached your unauthenticated pull rate limit.",
            Unavailable,
            "RegistryUnavailable",
        ),
        (500, "write /var/lib/docker/tmp/GetImageBlob1: no space left on device", Unavailable, "DiskFull"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["status", "stream"])
def test_every_answer_becomes_one_of_ours(
    status: int, text: str, kind: type[ReconcilerError], reason: str, *, streamed: bool
) -> None:
    lines: list[dict[str, Any]] = [
        {"status": "Pulling from shop", "id": "1"},
        {"errorDetail": {"message": text}, "error": text},
    ]
    answer: Callable[[], tuple[int, Any]] = (lambda: (200, iter(lines))) if streamed else error(status, text)
    with ScriptedEngine({"POST /images/create": answer}) as scripted:
        ours = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
        with pytest.raises(kind) as caught:
            ours.pull(REFERENCE, None)
        ours.close()
    assert caught.value.reason == reason
    assert REFERENCE in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("reference", "text", "reason"),
    [
        ("registry.example.com/team/403:401", 'Head "https://registry.example.com/v2/team/403/manifests/401": EOF', ""),
        ("registry.example.com/shop:403", "registry.example.com/shop:403: received unexpected HTTP status: 502", ""),
        ("registry.example.com/denied:1", "unexpected EOF while registry.example.com/denied:1 was read", ""),
        ("registry.example.com/shop:4031", "unexpected status for blob 14031", ""),
        ("registry.example.com/timeout:1", "manifest for registry.example.com/timeout:1 not found", "ImageNotFound"),
        ("registry.example.com/shop:1", "unexpected HTTP status: 403 Forbidden", "RegistryDenied"),
        ("4:1", "failed with status code 403", "RegistryDenied"),
    ],
)
def test_an_images_name_is_not_taken_for_an_answer(reference: str, text: str, reason: str) -> None:
    with ScriptedEngine({"POST /images/create": error(500, text)}) as scripted:
        ours = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
        with pytest.raises(ReconcilerError) as caught:
            ours.pull(reference, None)
        ours.close()
    assert caught.value.reason == (reason or "RegistryUnavailable")


def test_who_has_credentials_is_told_where_they_stand() -> None:
    remedies = []
    with ScriptedEngine({"POST /images/create": error(500, "unauthorized")}) as scripted:
        ours = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
        for credentials in (None, ("user", Secret(b"password"))):
            with pytest.raises(Failed) as caught:
                ours.pull(REFERENCE, credentials)
            remedies.append(caught.value.remedy)
        ours.close()
    assert remedies[0] != remedies[1]
    assert all("registry_credentials" in remedy for remedy in remedies)


def test_a_pull_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_LONGEST_SILENCE", 0.3)
    with ScriptedEngine({"POST /images/create": lambda: (200, silence(1.5))}) as scripted:
        ours = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
        with pytest.raises(Unavailable, match="no answer in time"):
            ours.pull(REFERENCE, None)
        ours.close()


def test_a_pull_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_PULL_TIMEOUT", 0.3)
    with ScriptedEngine({"POST /images/create": lambda: (200, trickle(0.05))}) as scripted:
        ours = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
        with pytest.raises(Unavailable, match=f"pulling {REFERENCE} took longer than") as caught:
            ours.pull(REFERENCE, None)
        assert caught.value.reason == "RegistryUnavailable"
        ours.close()


# --- those that nobody needs


@pytest.fixture
def pulled(ours: DockerEngine, engine: PrivateEngine, registry: Registry) -> tuple[str, str]:
    """An image that was never here before: reference and id."""
    engine.import_image("new:1", files={"etc/new": os.urandom(64)})
    reference = registry.push(engine, "new:1", "old/shop:1")
    client = engine.client()
    client.api.remove_image("new:1")
    client.close()
    return reference, ours.pull(reference, None)


def a_tag(api: docker.APIClient, image: str) -> None:
    api.tag(image, "kept", "1")


def a_container(api: docker.APIClient, image: str) -> None:
    api.create_container(image, ["true"], name="quick")


def a_child(api: docker.APIClient, image: str) -> None:
    made = api.create_container(image, ["true"])["Id"]
    api.commit(made, repository="child", tag="1")
    api.remove_container(made)


@pytest.mark.parametrize("somebody", [a_tag, a_container, a_child])
@pytest.mark.parametrize("between", [False, True], ids=["before", "between look and removal"])
def test_an_image_that_somebody_has_begun_to_use_stays(
    ours: DockerEngine,
    api: docker.APIClient,
    pulled: tuple[str, str],
    somebody: Callable[[docker.APIClient, str], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    between: bool,
) -> None:
    reference, image = pulled
    if between:
        look = wire.Client.inspect_image

        def and_then(client: wire.Client, name: str) -> dict[str, Any]:
            found = look(client, name)
            somebody(api, image)
            return found

        monkeypatch.setattr(wire.Client, "inspect_image", and_then)
    else:
        somebody(api, image)
    try:
        with pytest.raises(Refused, match=f"the image {reference} stays on this host: ") as caught:
            ours.collect_image(image, {reference})
        assert caught.value.reason == "ImageInUse"
        assert ours.observe().images[reference] == image
    finally:
        for container in api.containers(all=True, filters={"ancestor": image}):
            api.remove_container(container["Id"], force=True)
        for name in references(api) & {"child:1", "kept:1"}:
            api.remove_image(name)


def test_an_image_that_was_pulled_by_its_digest_goes(ours: DockerEngine, pulled: tuple[str, str]) -> None:
    reference, image = pulled
    digest = ours.observe().digests[image]
    ours.collect_image(image, {reference})
    assert ours.pull(digest, None) == image
    assert [name for name, known in ours.observe().images.items() if known == image] == [digest]
    ours.collect_image(image, {digest})
    assert image not in ours.images()


def test_what_it_was_built_from_on_this_host_stays(
    ours: DockerEngine, engine: PrivateEngine, api: docker.APIClient
) -> None:
    parent = engine.import_image("base:1", files={"etc/base": os.urandom(64)})
    a_child(api, parent)
    child = ours.observe().images["child:1"]
    api.remove_image("base:1")  # only its name: the child needs it
    ours.collect_image(child, {"child:1"})
    assert child not in ours.images()
    api.remove_image(parent)  # it is there


def test_an_engine_that_cannot_remove_is_asked_again_later() -> None:
    answers = {
        "GET /images/sha256:1/json": lambda: (200, {"Id": "sha256:1", "RepoTags": ["shop:1"], "RepoDigests": None}),
        "DELETE /images/sha256:1": error(500, "device or resource busy"),
    }
    with ScriptedEngine(answers) as scripted:
        ours = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
        with pytest.raises(Unavailable, match="device or resource busy"):
            ours.collect_image("sha256:1", {"shop:1"})
        scripted.answers["DELETE /images/sha256:1"] = error(404, "No such image")
        ours.collect_image("sha256:1", {"shop:1"})
        ours.close()


# --- users


def test_looking_into_an_image_leaves_nothing_and_is_done_once(
    ours: DockerEngine, engine: PrivateEngine, api: docker.APIClient
) -> None:
    image = engine.import_image("users:1", changes=("USER app", "VOLUME /data"))
    volumes = api.volumes()["Volumes"]
    assert ours.resolve_user(image, None) == (1000, 1000)
    before = ours.calls.total()
    assert ours.resolve_user(image, None) == (1000, 1000)
    assert ours.calls.total() == before
    assert api.containers(all=True) == []
    assert api.volumes()["Volumes"] == volumes
    assert ours.resolve_user("users:1", None) == (1000, 1000)
    engine.import_image("users:1", changes=("USER root",))
    assert ours.resolve_user("users:1", None) == (0, 0), "a tag may mean another image by now"


def test_an_image_without_users_takes_numbers_only(ours: DockerEngine, engine: PrivateEngine) -> None:
    image = engine.import_image("users:2", files={"etc/passwd": b"", "etc/group": b"garbage\n\n::::\nx:y:z\n"})
    assert ours.resolve_user(image, None) == (0, 0)
    assert ours.resolve_user(image, "1000") == (1000, 0)
    with pytest.raises(Failed, match="has no user 'app'"):
        ours.resolve_user(image, "app")


@pytest.mark.parametrize("user", ["99999999999", "2147483648", "1:99999999999", "9" * 5000, "far", "\u0663"])
def test_a_number_that_no_kernel_knows_is_no_user(user: str) -> None:
    users = "far:x:99999999999:1:::\n"
    name, _, group = user.partition(":")
    with pytest.raises(Failed, match=r"has no (user|group)") as caught:
        images.find_user(users, "", name, group, "shop:1")
    assert caught.value.reason == "UserUnknown"
    assert images.find_user(users, "", "2147483647", "", "shop:1") == (2147483647, 0)


def test_a_user_file_may_be_a_link(ours: DockerEngine, engine: PrivateEngine, api: docker.APIClient) -> None:
    engine.import_image("users:3", files={"etc/users": b"linked:x:77:78::/:/bin/sh\n"})
    made = api.create_container(
        "users:3", ["sh", "-c", "busybox rm /etc/passwd; busybox ln -s ../etc/users /etc/passwd"], user="0:0"
    )["Id"]
    api.start(made)
    api.wait(made, timeout=30)
    api.commit(made, "users", "4")
    api.remove_container(made)
    assert ours.resolve_user("users:4", "linked") == (77, 78)


def test_an_unknown_image_is_said_so(ours: DockerEngine) -> None:
    with pytest.raises(Unavailable, match="No such image"):
        ours.resolve_user("sha256:" + "0" * 64, "app")


def test_what_a_crash_left_is_removed_and_what_only_looks_like_it_is_not(
    ours: DockerEngine, engine: PrivateEngine, api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_LEFTOVER", -1.0)
    image = engine.import_image("users:5")
    api.create_container(image, ["x"], name="left", labels=ownership.temporary("left", KEY))
    api.create_container(image, ["x"], name="copied", labels=ownership.temporary("left", KEY))
    api.create_container(image, ["x"], name="theirs", labels=ownership.temporary("theirs", b"another"))
    ours.resolve_user(image, "app")
    left = {container["Names"][0] for container in api.containers(all=True)}
    for name in left:
        api.remove_container(name.lstrip("/"))
    assert left == {"/copied", "/theirs"}


ODD_PASSWD = b"""\
# comment
root:x:0:0:root:/:/bin/sh
twice:x:1:2:::
twice:x:5:6:::
also-one:x:1:3:::
123:x:456:789:::
broken:x:one:2:::
short:x
"""
ODD_GROUP = b"""\
root:x:0:
double:x:20:
double:x:30:
40:x:41:
short
"""


@pytest.mark.parametrize(
    "user", ["twice", "1", "123", "456", "7", "7:double", "7:20", "7:40", "twice:77", "root:double", "0"]
)
def test_odd_user_files_are_read_as_the_engine_does(
    ours: DockerEngine, engine: PrivateEngine, api: docker.APIClient, user: str
) -> None:
    image = engine.import_image("users:6", files={"etc/passwd": ODD_PASSWD, "etc/group": ODD_GROUP})
    made = api.create_container(image, ["grep", "-E", "^[UG]id", "/proc/self/status"], user=user)["Id"]
    api.start(made)
    api.wait(made, timeout=30)
    real = [line.split()[1] for line in api.logs(made).decode().splitlines()]
    api.remove_container(made)
    assert ours.resolve_user(image, user) == tuple(map(int, real))

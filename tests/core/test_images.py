from __future__ import annotations

import pytest

from reconciler.core.images import normalise, other_names, registry_of, repository_of

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ("nginx", "nginx:latest"),
        ("nginx:1.27", "nginx:1.27"),
        ("library/nginx", "nginx:latest"),
        ("docker.io/nginx", "nginx:latest"),
        ("docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/library/nginx:1", "nginx:1"),
        ("team/shop:1", "team/shop:1"),
        ("docker.io/team/shop", "team/shop:latest"),
        ("localhost/shop:1", "localhost/shop:1"),
        ("registry.example.com/shop", "registry.example.com/shop:latest"),
        ("registry.example.com:5000/shop", "registry.example.com:5000/shop:latest"),
        ("registry.example.com:5000/a/b/shop:2.3.1", "registry.example.com:5000/a/b/shop:2.3.1"),
        ("registry.example.com/library/shop:1", "registry.example.com/library/shop:1"),
        (f"nginx@{DIGEST}", f"nginx@{DIGEST}"),
        (f"registry.example.com:5000/shop:1@{DIGEST}", f"registry.example.com:5000/shop@{DIGEST}"),
        (f"docker.io/library/nginx:1@{DIGEST}", f"nginx@{DIGEST}"),
    ],
)
def test_a_reference_is_brought_to_the_form_that_docker_lists(written: str, listed: str) -> None:
    assert normalise(written) == listed
    assert normalise(listed) == listed


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("nginx", "docker.io"),
        ("nginx:1", "docker.io"),
        ("team/shop:1", "docker.io"),
        ("docker.io/team/shop", "docker.io"),
        ("index.docker.io/team/shop", "docker.io"),
        ("localhost/shop", "localhost"),
        ("localhost:5000/shop", "localhost:5000"),
        ("registry.example.com/team/shop:2", "registry.example.com"),
        (f"registry.example.com:5000/shop:1@{DIGEST}", "registry.example.com:5000"),
    ],
)
def test_the_registry_is_the_first_part_that_looks_like_a_host(reference: str, registry: str) -> None:
    assert registry_of(reference) == registry


@pytest.mark.parametrize(
    ("names", "known", "others"),
    [
        ((), {"shop:1"}, []),
        (("shop:1", "shop@sha256:ab"), {"shop:1"}, []),
        (("shop:1", "shop:2", "shop@sha256:ab"), {"shop:1"}, ["shop:2"]),
        (("a.example/shop:1", "b.example/shop@sha256:ab"), {"a.example/shop:1"}, ["b.example/shop@sha256:ab"]),
        (("shop@sha256:ab", "shop@sha256:cd"), {"shop@sha256:ab"}, []),
        (("shop:1",), {"shop@sha256:ab"}, ["shop:1"]),
        (("127.0.0.1:5000/shop@sha256:ab",), {"127.0.0.1:5000/shop:1"}, []),
    ],
)
def test_names_that_somebody_else_gave(names: tuple[str, ...], known: set[str], others: list[str]) -> None:
    assert other_names(names, known) == others


def test_a_repository_is_called_without_tag_and_digest() -> None:
    assert repository_of("127.0.0.1:5000/team/shop:1@sha256:ab") == "127.0.0.1:5000/team/shop"

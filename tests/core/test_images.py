from __future__ import annotations

import pytest

from reconciler.core.images import normalise, registry_of

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

from __future__ import annotations

from reconciler.core.model import App, Commit, Problem, Secret


def test_a_secret_does_not_tell() -> None:
    secret = Secret(b"hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == b"hunter2"
    assert secret == Secret(b"hunter2")
    assert secret != Secret(b"other")
    assert len({secret, Secret(b"hunter2")}) == 1


def test_problems_read_like_a_compilers() -> None:
    assert str(Problem("apps/shop/app.yaml", 3, 5, "wrong")) == "apps/shop/app.yaml:3:5: wrong"
    assert str(Problem("apps/shop/app.yaml", 0, 0, "missing")) == "apps/shop/app.yaml: missing"


def test_short_forms() -> None:
    assert Commit("1a2b3c4d5e", "a", "s", 0.0).short == "1a2b3c4d"
    assert App("shop", "teams/x/shop/app.yaml", "shop:1").folder == "teams/x/shop"
    assert App("shop", "app.yaml", "shop:1").folder == ""

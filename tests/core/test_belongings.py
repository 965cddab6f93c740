from __future__ import annotations

import pytest

from reconciler.core.belongings import belongings, files_of, owner_of
from reconciler.core.model import App, BrokenManifest, Catalog, File, RegistryCredentials, SecretsFile
from reconciler.errors import InvalidInput


def catalog(*manifests: tuple[str, str], broken: tuple[tuple[str, str | None], ...] = ()) -> Catalog:
    apps = {name: App(name, path, "image:1") for name, path in manifests}
    return Catalog(apps, broken=tuple(BrokenManifest(path, app) for path, app in broken))


def test_a_folder_is_its_apps_down_to_the_last_file() -> None:
    share = belongings("shop", catalog(("shop", "apps/shop/app.yaml"), ("shop2", "apps/shop2/app.yaml")))
    assert share is not None
    assert share.places == ("apps/shop",)
    assert share.has("apps/shop/app.yaml")
    assert share.has("apps/shop/conf/deep/x")
    assert not share.has("apps/shop2/app.yaml")
    assert not share.has("apps/shop")


def test_what_is_another_apps_in_any_revision_is_not_ours() -> None:
    now = catalog(("shop", "apps/shop/app.yaml"), ("worker", "apps/shop/worker/app.yaml"))
    then = catalog(("shop", "apps/shop/app.yaml"), broken=(("apps/shop/cron/app.yaml", None),))
    share = belongings("shop", now, [then])
    assert share is not None
    assert share.foreign == ("apps/shop/cron", "apps/shop/worker")
    assert not share.has("apps/shop/worker/app.yaml")
    assert not share.has("apps/shop/cron/settings.toml")
    assert share.has("apps/shop/workers/x")


def test_our_own_earlier_place_is_no_foreign_one() -> None:
    share = belongings("shop", catalog(("shop", "shop/app.yaml")), [catalog(("shop", "shop/web/app.yaml"))])
    assert share is not None
    assert share.foreign == ()


def test_at_the_root_only_what_the_manifest_names() -> None:
    app = App(
        "tool",
        "app.yaml",
        "image:1",
        secrets=SecretsFile("secrets.sops.yaml"),
        registry_credentials=RegistryCredentials("login.sops.yaml"),
        files=(File("conf/tool.toml", "/etc/tool.toml"),),
    )
    assert files_of(app) == ["conf/tool.toml", "secrets.sops.yaml", "login.sops.yaml"]
    share = belongings("tool", Catalog({"tool": app}))
    assert share is not None
    assert share.places == ("app.yaml", "conf/tool.toml", "login.sops.yaml", "secrets.sops.yaml")
    assert share.has("conf/tool.toml")
    assert not share.has("README.md")
    assert not share.has("conf/other.toml")


def test_a_broken_manifest_is_found_by_the_name_it_claims() -> None:
    share = belongings("shop", catalog(broken=(("apps/shop/app.yaml", "shop"),)))
    assert share is not None
    assert share.folder == "apps/shop"
    assert belongings("other", catalog(broken=(("apps/shop/app.yaml", None),))) is None
    with pytest.raises(InvalidInput, match=r"a/shop/app.yaml and b/shop/app.yaml"):
        belongings("shop", catalog(broken=(("a/shop/app.yaml", "shop"), ("b/shop/app.yaml", "shop"))))


def test_who_is_in_a_folder() -> None:
    both = catalog(("shop", "apps/shop/app.yaml"), broken=(("apps/x/app.json", "late"),))
    assert owner_of("apps/shop", both) == "shop"
    assert owner_of("apps/x", both) == "late"
    assert owner_of("apps", both) is None

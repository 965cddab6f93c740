"""What in a tree belongs to one app: all of its folder, less the folders of other apps that stand in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.core.model import App, Catalog
from reconciler.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Belongings:
    """One app's share of a tree. Paths are the tree's."""

    manifest: str
    foreign: tuple[str, ...] = ()
    """Folders of other apps below this one's."""
    named: frozenset[str] = frozenset()
    """Of an app whose manifest stands at the root: the files that the manifest names. All else there is everybody's."""

    @property
    def folder(self) -> str:
        """The manifest's folder; empty at the root."""
        return self.manifest.rpartition("/")[0]

    def has(self, path: str) -> bool:
        """Whether this file is the app's."""
        if not self.folder:
            return path == self.manifest or path in self.named
        return path.startswith(f"{self.folder}/") and not any(path.startswith(f"{other}/") for other in self.foreign)

    @property
    def places(self) -> tuple[str, ...]:
        """The fewest paths that lead to all of it, ``foreign`` not taken out."""
        return (self.folder,) if self.folder else tuple(sorted({self.manifest, *self.named}))


def belongings(name: str, catalog: Catalog, others: Iterable[Catalog] = ()) -> Belongings | None:
    """An app's share of the tree that this catalog was read from; None where there is no such app.

    Args:
        name: The app; its manifest may be broken.
        catalog: What the tree's manifests say.
        others: Catalogs of other revisions. A folder that is another app's in any of them is not this app's.

    Raises:
        InvalidInput: Two manifests claim the name.
    """
    manifest = _manifest(name, catalog)
    if manifest is None:
        return None
    folder = manifest.rpartition("/")[0]
    elsewhere = {path.rpartition("/")[0] for one in (catalog, *others) for path, app in _manifests(one) if app != name}
    foreign = tuple(sorted(other for other in elsewhere if other.startswith(f"{folder}/")))
    app = catalog.apps.get(name)
    return Belongings(manifest, foreign, frozenset(files_of(app) if app and not folder else ()))


def files_of(app: App) -> list[str]:
    """The files that a manifest names; some may stand outside its folder."""
    sealed = [app.secrets, app.registry_credentials]
    return [*(file.source for file in app.files), *(each.file for each in sealed if each is not None)]


def owner_of(folder: str, catalog: Catalog) -> str | None:
    """The app whose manifest stands in this very folder; None where there is none, or nobody knows its name."""
    return next((app for path, app in _manifests(catalog) if path.rpartition("/")[0] == folder), None)


def _manifest(name: str, catalog: Catalog) -> str | None:
    if name in catalog.apps:
        return catalog.apps[name].manifest
    claims = [broken.path for broken in catalog.broken if broken.app == name]
    if len(claims) > 1:
        raise InvalidInput(
            f"{' and '.join(claims)} all say that they are {name}",
            reason="SeveralManifests",
            remedy="Name the directory that holds the manifests of one environment, as repository.directory does",
        )
    return claims[0] if claims else None


def _manifests(catalog: Catalog) -> Iterable[tuple[str, str | None]]:
    yield from ((app.manifest, name) for name, app in catalog.apps.items())
    yield from ((broken.path, broken.app) for broken in catalog.broken)

from __future__ import annotations

import subprocess
import sys

import pytest
from harness.builders import app

from reconciler.cli.wiring import SiteRenderer
from reconciler.core.model import App, Ingress
from reconciler.core.observed import SiteState
from reconciler.core.site import Frontend

SITE = SiteState(None, None, resolve=False)


def routed(*names: str) -> list[App]:
    return [app(name, ingress=(Ingress(f"{name}.example.com", "/", 80),)) for name in names]


def test_a_site_is_rendered_again_only_when_something_that_it_shows_changed() -> None:
    renderer = SiteRenderer(Frontend("10.201.0.1"))
    one = routed("shop")
    first = renderer.render(one, SITE)
    assert renderer.render(one, SiteState("loaded", "written", resolve=False)) is first
    assert renderer.render(routed("other", "shop"), SITE).id != first.id
    assert renderer.render(one, SiteState(None, None, resolve=True)).id != first.id
    again = renderer.render(one, SITE)
    dealt = renderer.render(one, SITE, frozenset({"shop"}))
    assert dealt.id != again.id
    assert renderer.render(one, SITE, frozenset({"shop"})) is dealt


@pytest.mark.parametrize("verb", ["status", "version", "schema app", "history"])
def test_quick_verbs_do_not_load_heavy_libraries(verb: str) -> None:
    probe = (
        "import sys, reconciler.cli as cli\n"
        "try:\n"
        f"    cli.main({verb.split()!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'docker', 'git', 'watchfiles', 'prometheus_client'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

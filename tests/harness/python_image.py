"""An image in which this folder's ``PROGRAMS`` run: this machine's Python, and of its library what they import."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.engine import PrivateEngine

IMAGE = "webapp:1"
PROGRAMS = ("webapp", "load", "orders", "sick", "ledger")
PYTHON = str(Path(sys.executable).resolve())
"""Not the virtual environment's. It has the same place in the image, and so has all that belongs to it."""

_COLLECT = """
import importlib, importlib.util, marshal, os, sys
into, here, *programs = sys.argv[1:]
sys.path.insert(0, here)
sys.modules["ssl"] = None  # http.client does without; it would bring OpenSSL along
for name in (*programs, "encodings.idna", "encodings.ascii", "encodings.latin_1"):
    importlib.import_module(name)
for name, module in list(sys.modules.items()):
    spec = getattr(module, "__spec__", None)
    if name in programs or spec is None or not spec.has_location:
        continue
    path, content = spec.origin, None
    if path.endswith(".py"):  # its code alone: nothing is compiled, and no time is compared
        content = importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(spec.loader.get_code(spec.name))
        path += "c"
    else:
        content = open(path, "rb").read()
    os.makedirs(into + os.path.dirname(path), exist_ok=True)
    with open(into + path, "wb") as file:
        file.write(content)
"""


def make_python_image(engine: PrivateEngine) -> None:
    """Some 15 MB. Its version is what the environment variable VERSION says."""
    here = Path(__file__).parent
    command = [PYTHON, "-I", "-S", "-X", "frozen_modules=off", "-c", _COLLECT]
    with tempfile.TemporaryDirectory(prefix="rec-python-") as into:
        subprocess.run([*command, into, str(here), *PROGRAMS], check=True, timeout=60)
        library = {str(file)[len(into) :]: file.read_bytes() for file in Path(into).rglob("*") if file.is_file()}
    binaries = [PYTHON, *(path for path in library if path.endswith(".so"))]
    files = {path: Path(path).read_bytes() for path in (PYTHON, *libraries(binaries))}
    cache = Path("/etc/ld.so.cache")
    if cache.exists():
        files[str(cache)] = cache.read_bytes()
    files |= {f"/app/{name}.py": (here / f"{name}.py").read_bytes() for name in PROGRAMS}
    start = f'CMD ["{PYTHON}", "-I", "-S", "/app/webapp.py", "8080"]'
    engine.import_image(IMAGE, changes=(start, "USER app"), files=files | library)


def libraries(binaries: list[str]) -> set[str]:
    """Shared libraries that programs need, and the loader, under the names by which they are looked for."""
    told = subprocess.run(["ldd", *binaries], check=True, capture_output=True, text=True, timeout=60).stdout
    return set(re.findall(r"(/\S+) \(0x", told))

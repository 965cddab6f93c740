"""Real age keys, and files encrypted with real sops."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from reconciler.core.secretfile import Format


class SecretSmith:
    """A person with sops and the public key of one host.

    ``key`` is the file that the host's agent is given, ``recipient`` the public key in it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys = 0
        self.key, self.recipient = self.make_key()

    def make_key(self) -> tuple[Path, str]:
        """A new age key: (file, public key)."""
        self._keys += 1
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"age-{self._keys}.key"
        subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True, timeout=30)
        path.chmod(0o600)
        return path, self._public(path)

    @staticmethod
    def _public(path: Path) -> str:
        return subprocess.run(
            ["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    def encrypt(self, plaintext: str | bytes, form: Format = "yaml", *, recipient: str | None = None) -> bytes:
        """What ``sops encrypt`` makes of a plaintext in one of its formats."""
        sops = shutil.which("sops")
        assert sops, "sops is not installed; see scripts/"
        data = plaintext.encode() if isinstance(plaintext, str) else plaintext
        done = subprocess.run(
            [
                sops,
                "encrypt",
                "--age",
                recipient or self.recipient,
                "--input-type",
                form,
                "--output-type",
                form,
                "--filename-override",
                f"secrets.{form}",
            ],
            input=data,
            capture_output=True,
            check=False,
            timeout=60,
            cwd="/",
            env={"HOME": "/nonexistent", "SOPS_DISABLE_VERSION_CHECK": "1"},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def yaml(self, values: dict[str, str]) -> bytes:
        """A SOPS file in YAML with these texts; JSON is YAML, and spares every question of quoting."""
        return self.encrypt(json.dumps(values), "yaml")

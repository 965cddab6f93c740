"""Pairs of certificate and key, whole, broken and half renewed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from harness.nginx import certify

from reconciler.world.nginx import certificates
from reconciler.world.nginx.certificates import Certificates


def test_no_directory_means_none(tmp_path: Path) -> None:
    assert Certificates(tmp_path / "absent").usable() == {}


@pytest.mark.parametrize("key_type", ["ec", "rsa"])
def test_a_pair_that_fits_is_usable(tmp_path: Path, key_type: str) -> None:
    certify(tmp_path, "a.example", key_type=key_type)
    assert list(Certificates(tmp_path).usable()) == ["a.example"]


def test_a_renewed_pair_has_another_digest_and_a_removed_one_none(tmp_path: Path) -> None:
    certify(tmp_path, "a.example")
    known = Certificates(tmp_path)
    first = known.usable()
    assert known.usable() == first
    certify(tmp_path, "a.example")
    assert known.usable() != first
    (tmp_path / "a.example.key").unlink()
    assert known.usable() == {}


def test_pairs_that_nginx_could_not_load_are_left_out(tmp_path: Path) -> None:
    for host in ("good", "misfit", "other", "garbage", "encrypted", "lonely"):
        certify(tmp_path, host)
    (tmp_path / "misfit.key").write_bytes((tmp_path / "other.key").read_bytes())
    (tmp_path / "garbage.crt").write_text("nothing")
    (tmp_path / "lonely.key").unlink()
    (tmp_path / "dangling.crt").symlink_to("absent")
    subprocess.run(
        ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", "encrypted.key", "-out", "encrypted.key.new"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (tmp_path / "encrypted.key.new").replace(tmp_path / "encrypted.key")
    assert list(Certificates(tmp_path).usable()) == ["good", "other"]


def test_a_pair_in_the_middle_of_its_renewal_stays_usable_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(tmp_path, "a.example")
    known = Certificates(tmp_path)
    before = known.usable()
    certify(tmp_path, "b.example")
    (tmp_path / "a.example.crt").write_bytes((tmp_path / "b.example.crt").read_bytes())
    assert known.usable()["a.example"] == before["a.example"]
    (tmp_path / "a.example.key").write_bytes((tmp_path / "b.example.key").read_bytes())
    renewed = known.usable()["a.example"]
    assert renewed != before["a.example"]
    os.utime(tmp_path / "a.example.key", (1, 1))
    (tmp_path / "a.example.key").write_text("gone wrong")
    monkeypatch.setattr(certificates, "HALF_RENEWED", 0.0)
    assert list(known.usable()) == ["a.example", "b.example"]
    assert list(known.usable()) == ["b.example"]

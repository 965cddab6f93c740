"""Pairs of certificate and key, whole, broken and half renewed."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.nginx import certify

from reconciler.errors import Unavailable
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
    (tmp_path / "a.example.crt").unlink()
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


@pytest.mark.parametrize("missing", ["crt", "key"])
def test_a_pair_of_which_one_half_is_being_replaced_stays_usable_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Some clients remove a file and write it anew: the host must not go on in plain HTTP meanwhile."""
    half = tmp_path / f"a.example.{missing}"
    certify(tmp_path, "a.example")
    known = Certificates(tmp_path)
    before = known.usable()
    half.rename(tmp_path / "aside")
    assert known.usable() == known.usable() == before
    (tmp_path / "aside").rename(half)
    assert known.usable() == before
    half.rename(tmp_path / "aside")
    assert known.usable() == before
    monkeypatch.setattr(certificates, "HALF_RENEWED", 0.0)
    assert known.usable() == {}
    (tmp_path / "aside").rename(half)
    assert known.usable() == before


@contextlib.contextmanager
def no_file_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull, "rb") as lowest:  # noqa: PTH123  (its number is the next that anybody gets)
        number = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_cannot_be_read_for_now_counts_as_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certify(tmp_path, "a.example")
    known = Certificates(tmp_path)
    before = known.usable()
    with no_file_descriptor_left():
        assert known.usable() == known.usable() == before
    assert caplog.text.count("cannot be read") == 1
    aside = tmp_path.with_name("aside")
    tmp_path.rename(aside)
    tmp_path.write_text("not a directory")
    assert known.usable() == before
    tmp_path.unlink()
    assert known.usable() == {}
    aside.rename(tmp_path)
    assert known.usable() == before


def test_a_pair_that_could_not_be_judged_is_read_again(tmp_path: Path) -> None:
    certify(tmp_path, "a.example")
    known = Certificates(tmp_path)
    before = known.usable()
    key = tmp_path / "a.example.key"
    key.rename(tmp_path / "aside")
    key.mkdir()
    assert known.usable() == before
    key.rmdir()
    key.symlink_to(key)
    assert known.usable() == before
    key.unlink()
    certify(tmp_path, "a.example")
    assert known.usable().keys() == before.keys()
    assert known.usable() != before


def test_a_directory_that_was_never_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    certify(tmp_path, "a.example")
    known = Certificates(tmp_path)
    with no_file_descriptor_left(), pytest.raises(Unavailable, match="nobody knows which hosts have HTTPS") as caught:
        known.usable()
    assert caught.value.reason == "CertificatesUnreadable"
    assert list(known.usable()) == ["a.example"]

from __future__ import annotations

from reconciler.errors import InvalidInput, InvalidSettings, ReconcilerError, Unavailable


def test_an_error_tells_what_happened_and_what_to_do() -> None:
    error = Unavailable("Docker does not answer", reason="DockerUnavailable", remedy="systemctl status docker")
    assert str(error) == "Docker does not answer. systemctl status docker"
    assert str(Unavailable("Docker does not answer")) == "Docker does not answer"


def test_errors_are_told_apart_by_what_the_loop_does_next() -> None:
    assert issubclass(InvalidSettings, InvalidInput)
    assert issubclass(InvalidInput, ReconcilerError)
    assert not issubclass(Unavailable, InvalidInput)

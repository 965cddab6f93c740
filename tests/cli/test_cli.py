from __future__ import annotations

import pytest

from reconciler.cli import ERROR, main, parser


def test_options_that_hold_for_all_verbs_may_stand_before_or_after_the_verb() -> None:
    before = parser().parse_args(["--output", "json", "--config", "a.yaml", "status"])
    after = parser().parse_args(["status", "--output", "json", "--config", "a.yaml"])
    assert (before.output, str(before.config)) == (after.output, str(after.config)) == ("json", "a.yaml")
    assert parser().parse_args(["status"]).output == "text"


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    from reconciler.cli.verbs import VERBS  # noqa: PLC0415  (as the command does)

    for verb in VERBS:
        with pytest.raises(SystemExit) as end:
            parser().parse_args([verb, "--help"])
        assert end.value.code == 0
        assert f"example: reconciler {verb}" in capsys.readouterr().out


def test_main_exits_with_the_verbs_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip()
    with pytest.raises(SystemExit) as end:
        main(["validate", "/nonexistent"])
    assert end.value.code == ERROR

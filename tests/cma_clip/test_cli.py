"""`cma-clip`: one table of commands, each handed on with its arguments, its name and its exit code."""

from __future__ import annotations

import sys
import types

import pytest

from cma_clip import cli


def test_help_lists_every_command_on_a_line_and_so_does_no_command(capsys):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()[2:]] == list(cli.COMMANDS)
    assert all(len(line) <= 100 for line in listed.splitlines())
    assert cli.main([]) == 0 and capsys.readouterr().out == listed


def test_an_unknown_command_is_one_line_and_ends_with_2(capsys):
    assert cli.main(["tarin", "--stage", "warmup"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'tarin' is none of cma-clip's commands: fit, prepare, ") and error.count("\n") == 1


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What `cma-clip score` runs, replaced; its main keeps sys.argv."""
    module = types.ModuleType("train.score")
    monkeypatch.setitem(sys.modules, "train.score", module)
    monkeypatch.setattr(sys, "argv", ["cma-clip"])
    return module


def test_a_command_gets_its_name_its_arguments_and_gives_its_code(module):
    seen = []

    def main() -> int:
        seen.extend(sys.argv)
        return 75

    module.main = main
    assert cli.main(["score", "bundle", "--data", "x"]) == 75
    assert seen == ["cma-clip score", "bundle", "--data", "x"]


def test_a_missing_library_names_the_extra_that_brings_it(module, capsys):
    def main() -> None:
        import no_such_library  # noqa: F401

    module.main = main
    assert cli.main(["score"]) == 2
    assert capsys.readouterr().err == (
        "error: cma-clip score needs no_such_library, which is not installed: pip install 'cma-clip[train]'\n"
    )


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "train"])
def test_every_command_starts_and_calls_itself_by_its_name(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cma-clip"])
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: cma-clip {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "launched"),
    [
        (["--stage", "warmup"], ["SCRIPT", "--stage", "warmup"]),
        (
            ["--num_accelerators", "2", "--", "--stage", "warmup"],
            ["--num_accelerators", "2", "SCRIPT", "--stage", "warmup"],
        ),
    ],
)
def test_training_runs_under_the_launcher(given, launched, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cma-clip"])
    seen = []
    monkeypatch.setattr("deepspeed.launcher.runner.main", seen.extend)
    assert cli.main(["train", *given]) == 0
    script = seen[launched.index("SCRIPT")]
    assert script.endswith("/train/main.py")
    assert [word if word != script else "SCRIPT" for word in seen] == launched

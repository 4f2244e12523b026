"""What pip would install for an extra of this project, and a python that sees nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {file.parent.name for file in ROOT.glob("*/__init__.py")}
BLOCKER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
"""


def distributions(extra: str) -> set[str]:
    """Names of all that `pip install cma-clip[extra]` brings, by pyproject.toml; "" is no extra."""
    wanted, seen = [Requirement(f"cma-clip[{extra}]" if extra else "cma-clip")], set()
    while wanted:
        requirement = wanted.pop()
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key not in seen:
            seen.add(key)
            wanted += _needs(key[0], requirement.extras)
    return {name for name, *_ in seen}


def _needs(distribution: str, extras: Iterable[str]) -> list[Requirement]:
    """What a distribution that is installed here asks for; our own by the source, not by what is installed."""
    if distribution == PROJECT["name"]:
        chosen = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
        parsed = [Requirement(line) for line in [*PROJECT["dependencies"], *chosen]]
    else:
        try:
            parsed = [Requirement(line) for line in requires(distribution) or []]
        except PackageNotFoundError:
            parsed = []
    settings = [{"extra": extra} for extra in ("", *extras)]
    return [one for one in parsed if one.marker is None or any(map(one.marker.evaluate, settings))]


def modules_of(extra: str) -> set[str]:
    """What can be imported then, by top-level names."""
    brought = distributions(extra)
    owners = packages_distributions().items()
    return {module for module, names in owners if brought & {canonicalize_name(name) for name in names}} - OURS


def run_isolated(code: str, extra: str, packages: set[str]) -> subprocess.CompletedProcess[str]:
    """Run code where only the standard library, that extra and these packages of ours can be imported."""
    allowed = sorted(modules_of(extra) | packages | sys.stdlib_module_names)
    start = f"{BLOCKER}allowed = {allowed}\nsys.meta_path.insert(0, Absent())\nsys.path.insert(0, {str(ROOT)!r})\n"
    return subprocess.run([sys.executable, "-I", "-c", start + code], capture_output=True, text=True, check=False)

"""What pip would install for an extra of this project, and a python that sees nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BLOCKER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
"""


def installed(extra: str) -> set[str]:
    """Import names of all that `pip install cma-clip[extra]` brings, by pyproject.toml; "" is no extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [*project["dependencies"], *project["optional-dependencies"].get(extra, [])]
    wanted, brought = [Requirement(line) for line in own], set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in brought:
            continue
        brought.add((name, *requirement.extras))
        if name == project["name"]:
            further = [line for one in requirement.extras for line in project["optional-dependencies"][one]]
        else:
            further = _requirements(name)
        extras = requirement.extras or {""}
        parsed = [Requirement(line) for line in further]
        wanted += [one for one in parsed if not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras)]
    names = {name for name, *_ in brought}
    return {
        module
        for module, distributions in packages_distributions().items()
        if names & {canonicalize_name(distribution) for distribution in distributions}
    }


def run_isolated(code: str, extra: str, packages: set[str]) -> subprocess.CompletedProcess[str]:
    """Run code where only the standard library, that extra and these packages of ours can be imported."""
    allowed = installed(extra) - _ours() | packages | sys.stdlib_module_names
    start = (
        f"{BLOCKER}allowed = {sorted(allowed)!r}\nsys.meta_path.insert(0, Absent())\nsys.path.insert(0, {str(ROOT)!r})"
    )
    return subprocess.run([sys.executable, "-I", "-c", f"{start}\n{code}"], capture_output=True, text=True, check=False)


def _ours() -> set[str]:
    return {file.parent.name for file in ROOT.glob("*/__init__.py")}


def _requirements(distribution: str) -> list[str]:
    try:
        return requires(distribution) or []
    except PackageNotFoundError:
        return []

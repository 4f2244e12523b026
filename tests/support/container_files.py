"""What Dockerfile, deploy/kubernetes.yaml and deploy/compose.yaml say, read for tests."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from serve.profiles import PRODUCTION, Credentials, Version, render

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PINNED = Version(2, 75)  # the server in serve.profiles.IMAGE


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile: stage -> its instructions as (name, arguments); a heredoc follows its first line."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines = iter((ROOT / "Dockerfile").read_text().splitlines())
    for line in lines:
        if not line or line.startswith("#"):
            continue
        while line.endswith("\\"):
            line = line[:-1] + next(lines).strip()
        name, arguments = line.split(" ", 1)
        if heredoc := re.search(r'<<"(\w+)"', line):
            arguments = "\n".join([arguments, *takewhile(heredoc[1].__ne__, lines)])
        if name == "FROM":
            stage = found.setdefault(arguments.split(" AS ")[1], [])
        stage.append((name, arguments))
    return found


def last(stage: str, name: str) -> str:
    """Arguments of a stage's last instruction of this name."""
    return [arguments for instruction, arguments in stages()[stage] if instruction == name][-1]


def documents() -> dict[str, dict[str, Any]]:
    """kubernetes.yaml: kind -> document; there is one of each."""
    loaded = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    by_kind = {document["kind"]: document for document in loaded}
    assert len(by_kind) == len(loaded)
    return by_kind


def pod() -> dict[str, Any]:
    return documents()["Deployment"]["spec"]["template"]


def container() -> dict[str, Any]:
    (only,) = pod()["spec"]["containers"]
    return only


def mounts() -> dict[str, dict[str, Any]]:
    """The Deployment: mount path -> mount, with its volume under `volume`."""
    volumes = {volume["name"]: volume for volume in pod()["spec"]["volumes"]}
    return {mount["mountPath"]: mount | {"volume": volumes[mount["name"]]} for mount in container()["volumeMounts"]}


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def production_flag(name: str) -> str:
    """The value with which the pinned server is started."""
    flags = dict(flag[2:].split("=", 1) for flag in render(PRODUCTION, PINNED, Credentials()))
    return flags[name]


def gibibytes(quantity: str) -> int:
    """Kubernetes' `2Gi` or Compose's `2gb`."""
    match = re.fullmatch(r"(\d+)(Gi|gb)", quantity)
    assert match is not None, quantity
    return int(match[1])

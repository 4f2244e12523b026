"""Whether a model repository can be served on this machine, file by file, before the server starts.

Each check raises ValueError with one line: what, where, what to do.
"""

from __future__ import annotations

import os
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cma_clip.files import file_sha256
from model.config import BundleConfig
from serve.engine_pace import MOST_AHEAD
from serve.host import compute_capabilities, tensorrt_version
from serve.runtimes import RUNTIMES
from serve.sets import served_set
from serve.stamp import EngineStamp


def check_exported(repository: Path) -> None:
    """There is a bundle.json, that of the set that is served."""
    bundle = served_set(repository).bundle
    if not bundle.is_file():
        raise ValueError(f"{bundle}: no such file; export: python -m serve.export BUNDLE --deploy {repository}")


def check_models(repository: Path, config_name: str | None) -> None:
    """bundle.json fits; every folder is a model whose configuration parses and whose file is there."""
    check_exported(repository)
    BundleConfig.read(served_set(repository).bundle)
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        _check_is_no_volume(folder)
        config, version = read_config(folder, config_name), served_version(folder)
        file = config.default_model_filename
        if file and folder.name.partition("_")[0] != "engine" and not (version / file).is_file():
            raise ValueError(f"{version / file}: no such file, though {folder.name}'s configuration names it")


def _check_is_no_volume(folder: Path) -> None:
    """What a file system keeps at its root, and what this user may not open, is no model, and stops the server."""
    if folder.name == "lost+found":
        cure = "put the repository in a sub-directory of the volume and mount that (Kubernetes: subPath)"
        raise ValueError(f"{folder}: a volume's root is no model repository; {cure}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(
            f"{folder}: user {os.geteuid()} cannot open it, but every folder of {folder.parent} must be a model"
        )


def check_engine(repository: Path, config_name: str | None) -> None:
    """The engine is there and whole, was exported with this bundle.json, and was built for this TensorRT and this GPU.

    The libraries of a python step are compared by itself as it loads.
    """
    served = served_set(repository)
    folder = served.folder("engine")
    runtime, _ = engine_runtime(folder, config_name)
    engine = served_version(folder) / RUNTIMES[runtime].file
    if not engine.is_file():
        cure = f"export: python -m serve.export BUNDLE --deploy {repository} --runtime {runtime}"
        raise ValueError(f"{engine}: no such file; {cure}")
    stamp, bundle = EngineStamp.read(engine), file_sha256(served.bundle)
    versions = _tensorrt_as_in(stamp) if runtime == "tensorrt" else stamp.versions
    gpus: list[str | None] = [*compute_capabilities()] if stamp.compute_capability else []
    for gpu in gpus or [None]:
        if problem := stamp.mismatch(engine, bundle, versions, gpu):
            raise ValueError(problem)
    if problem := stamp.damage(engine):
        raise ValueError(problem)


def _tensorrt_as_in(stamp: EngineStamp) -> dict[str, str]:
    """This machine's version, with as many numbers as the stamp has: 10.14.1 or 10.14.1.48."""
    numbers = stamp.versions.get("tensorrt", "").split(".")
    return {"tensorrt": ".".join(tensorrt_version().split(".")[: len(numbers)])}


def read_config(folder: Path, config_name: str | None) -> model_config_pb2.ModelConfig:
    """A model's configuration, the file that the server would take.

    Raises:
        ValueError: there is none, or it does not parse; the message names file, line and column.
    """
    path = _config_path(folder, config_name)
    if not path.is_file():
        raise ValueError(f"{path}: no such file, but every folder of {folder.parent} must be a model")
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}:{error}") from None


def engine_runtime(folder: Path, config_name: str | None) -> tuple[str, dict[str, str]]:
    """The runtime that an engine's configuration names, and the parameters that are handed to it.

    Raises:
        ValueError: as `read_config`, or there is no such runtime.
    """
    return runtime_of(read_config(folder, config_name), _config_path(folder, config_name))


def runtime_of(config: model_config_pb2.ModelConfig, where: object) -> tuple[str, dict[str, str]]:
    """The same of a configuration that has been read; `where` is named in the error."""
    parameters = {name: value.string_value for name, value in config.parameters.items() if name != MOST_AHEAD}
    runtime = parameters.pop("runtime", "tensorrt" if config.platform == "tensorrt_plan" else "")
    if runtime not in RUNTIMES:
        expected = f"expected one of {', '.join(RUNTIMES)}"
        raise ValueError(f"{where}: runtime is {runtime!r}, {expected}")
    return runtime, parameters


def served_version(folder: Path) -> Path:
    """The version folder with the highest number: Triton serves that one."""
    versions = [path for path in folder.iterdir() if path.name.isdecimal()]
    if not versions:
        raise ValueError(f"{folder}: no version folder such as {folder / '1'}")
    return max(versions, key=lambda path: int(path.name))


def writable(repository: Path) -> str | None:
    """A warning where the server's user may change what it serves: python files are code that the server runs."""
    paths = (repository, *sorted(repository.rglob("*")))
    found = next((path for path in paths if os.access(path, os.W_OK)), None)
    return None if found is None else f"{found} can be written by the server's user: mount the repository read-only"


def _config_path(folder: Path, config_name: str | None) -> Path:
    named = folder / f"configs/{config_name}.pbtxt"
    return named if config_name and named.is_file() else folder / "config.pbtxt"

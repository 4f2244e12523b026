"""Each extra brings what its part of the project imports, and the locks hold a version of all that an extra brings."""

from __future__ import annotations

import pytest
from installed import ROOT, distributions, modules_of, run_isolated
from packaging.utils import canonicalize_name

# What Triton itself lays into the environment of a step.
TRITONS_OWN = "import sys, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('')"
CLIENT = {"client", "cma_clip"}


@pytest.mark.parametrize(
    ("extra", "packages", "modules"),
    [
        ("", CLIENT, "client client.aio client.classify client.canary client.options cma_clip.cli"),
        ("preprocess", {"cma_clip", "model"}, "model.preprocess model.config model.refusal"),
        ("predict", CLIENT | {"model", "dataset"}, "client.predict.__main__"),
        ("console", CLIENT | {"model", "dataset"}, "client.console.__main__ client.console.as_files"),
        ("serve", {"cma_clip", "model", "serve"}, "serve.launch serve.step serve.engines.openvino serve.check"),
    ],
)
def test_an_extra_brings_what_its_part_imports(extra, packages, modules):
    code = f"{TRITONS_OWN}\nimport importlib\nfor name in {modules.split()!r}: importlib.import_module(name)"
    result = run_isolated(code, extra, packages)
    assert result.returncode == 0, result.stderr


def test_the_client_alone_brings_no_image_library_and_no_torch():
    brought = modules_of("")
    assert {"numpy", "grpc", "tritonclient", "pydantic", "tqdm"} <= brought
    assert not brought & {"torch", "PIL", "pyarrow", "tokenizers", "deepspeed", "openvino", "simplejpeg", "h5py"}


def test_what_is_not_brought_is_out_of_reach():
    result = run_isolated("import PIL", "", CLIENT)
    assert result.returncode == 1 and "No module named 'PIL'" in result.stderr


def test_the_client_asks_a_server_with_nothing_else_installed(free_port):
    ask = f"""
from client import Classifier, ServerUnavailable
with Classifier("127.0.0.1:{free_port}") as classifier:
    try:
        classifier.classify("Redwood belted dress")
    except ServerUnavailable as error:
        print(error.code)
"""
    result = run_isolated(ask, "", CLIENT)
    assert result.stdout == "UNAVAILABLE\n", result.stderr


@pytest.mark.parametrize(("lock", "extras"), [("train", ("train", "console", "dev")), ("serve", ("local-server",))])
def test_a_lock_holds_one_version_of_all_that_its_environment_needs(lock, extras):
    """Fails where a dependency is new: `make lock` renews both."""
    lines = (ROOT / f"requirements/{lock}.txt").read_text().splitlines()
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert all(line.count("==") == 1 and " " not in line for line in lines)
    assert len(set(names)) == len(names) and "cma-clip" not in names
    needed = {name for extra in extras for name in distributions(extra)}
    assert needed - set(names) - {"cma-clip", "setuptools"} == set()

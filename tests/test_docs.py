"""What the documents name exists: files, modules, commands, links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from cma_clip.cli import COMMANDS
from model.config import ModelConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(ROOT.glob("docs/**/*.md")) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
DOCUMENTS += [ROOT / "deploy/README.md", ROOT / "kernels/BENCHMARKS.md"]
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} | {"docs"}
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}
# Not in the repository: export, preparing and training write them.
WRITTEN = re.compile(r"deploy/(bundle\.json|tokenizer\.json|model\.plan\.timing|engine/1/model\.\w+)|(data|runs)/.*")
PLACEHOLDER = re.compile(r"(\b|_)(NAME|MODULE|FOLDER|FILE|OUTPUT)\b")
FILE_NAME = re.compile(r".*\.(json|safetensors|onnx|plan|pt2|pbtxt|csv)")


def code(text: str) -> list[str]:
    """What stands in back-ticks, and every line between fences."""
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))
    return spans + [line for block in fenced for line in block.splitlines()]


def faults(text: str, document: Path) -> list[str]:
    """What `text` names that is not there."""
    found = [f"link {link}" for link in links(text) if not (document.parent / link).exists()]
    for span in code(text):
        found += [f"python -m {name}" for name in re.findall(r"python3? -m ([\w.]+)", span) if not runs(name)]
        found += [
            f"cma-clip {name}" for name in re.findall(r"^(?:\$ )?cma-clip ([a-z][\w-]*)", span) if name not in COMMANDS
        ]
    for span in re.findall(r"`([\w./-]+)`", text):
        if not PLACEHOLDER.search(span) and not (is_there(span) if "/" in span else is_module(span)):
            found.append(span)
    return found


def links(text: str) -> list[str]:
    return [link.partition("#")[0] for link in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text)]


def is_there(path: str) -> bool:
    return path.split("/")[0] not in FOLDERS or bool(WRITTEN.fullmatch(path)) or (ROOT / path).exists()


def is_module(name: str) -> bool:
    """A module, or a name in one; or no dotted name of ours at all: another word, a file of a bundle, a setting."""
    first, *rest = name.split(".")
    if (
        first not in PACKAGES
        or not rest
        or FILE_NAME.fullmatch(name)
        or first == "model"
        and rest[0] in ModelConfig.model_fields
    ):
        return True
    places = [ROOT.joinpath(*name.split(".")[:end]) for end in range(len(rest) + 1, 1, -1)]
    for place in places:
        source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if source.is_file():
            missing = name.split(".")[len(place.relative_to(ROOT).parts) :]
            return all(re.search(rf"\b{re.escape(part)}\b", source.read_text()) for part in missing)
    package = (ROOT / first / "__init__.py").read_text()
    return re.search(rf"\b{re.escape(rest[0])}\b", package) is not None


def runs(name: str) -> bool:
    if PLACEHOLDER.search(name):
        return True
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    return spec is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document):
    assert faults(document.read_text(), document) == []


WRONG = {
    "`model/gone.py`": ["model/gone.py"],
    "`serve.gone` and `serve.runtimes.GONE_TABLE`": ["serve.gone", "serve.runtimes.GONE_TABLE"],
    "`deploy/engine/2/`": ["deploy/engine/2/"],
    "```\npython -m train.gone --output x\n```": ["python -m train.gone"],
    "`python -m model`": ["python -m model"],
    "```\ncma-clip fly runs/mine\n```": ["cma-clip fly"],
    "[here](docs/gone.md#place)": ["link docs/gone.md"],
}
RIGHT = [
    "`model/tasks/kinds.py`, `train.thresholds.CRITERIA`, `client.Classifier`, `model.kernels`, `deploy/bundle.json`",
    "`serve/engines/NAME.py`, `a.b`, `text_share`, `image/png`, [design](docs/design.md#layout), [x](https://a.b/c)",
    "```\ncma-clip predict --help; python -m train.prepare catalog\npython -m pytest\n```",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_not_there_is_found(text):
    assert faults(text, ROOT / "README.md") == WRONG[text]


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_there_is_no_fault(text):
    assert faults(text, ROOT / "README.md") == []

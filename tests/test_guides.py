"""Every command of the guides, in its order, over a small table: what a guide says works as it stands there.

Commands stand in fences without a language; `sh` marks those that need a GPU, docker or a cluster.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rank_processes import Ranks, forked
from safetensors.torch import load_file, save_file
from server_process import ServerProcess, tritonserver
from shop import shop_rows, write_shop
from tiny import ROOT

from cma_clip.cli import main as cma_clip
from train.children import Children
from train.study.runs import TOWERS

GUIDES = sorted(path.stem for path in (ROOT / "docs/guides").glob("*.md"))
LONGEST = 60  # lines
STAGES = ("contrastive", "warmup", "end_to_end", "tuning")
SMALL = [f"--stages.{stage}.{key}" for stage in STAGES for key in ("epochs=1", "batch_size=32", "micro_batch_size=16")]
SERVER = ".venv-serve/bin/tritonserver"
# What makes a command small, by how it begins.
MORE = {
    "cma-clip fit": [*SMALL, "--no-export", "--no-rivals"],
    "cma-clip train": ["--stages.tuning.epochs=1"],
    "deepspeed": [*SMALL, "--model.clip=cma-clip-tiny", "--model.pretrained=towers.safetensors"],
}


def fences(guide: str, language: str = "") -> list[str]:
    text = (ROOT / f"docs/guides/{guide}.md").read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


def commands(guide: str) -> list[str]:
    lines = "\n".join(fences(guide)).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def write_table(path: Path, first: int, count: int) -> None:
    rows = [
        row | {"sku": f"s{first + n}", "color": row["Main Colour"]}
        for n, row in enumerate(shop_rows(path.parent, count))
    ]
    write_shop(path, [{key: row[key] for key in ("sku", "photo", "name", "color", "tags")} for row in rows])


def run(command: str, further: list[str]) -> None:
    """Run it as it stands, with what makes it small, in this process or in ranks that it forks."""
    words = shlex.split(command)
    words += [word for begins, more in MORE.items() if command.startswith(begins) for word in more] + further
    if words[0] == "deepspeed" or words[1] == "train":
        own = words[2:] if words[0] == "deepspeed" else words[words.index("--") + 1 :]
        ranks = Ranks(own, Path("said") / own[own.index("--stage") + 1], cwd=Path.cwd())
        assert ranks.wait() == [0, 0], command + ranks.said()[-3000:]
        return
    assert words[0] == "cma-clip", command
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        assert cma_clip(words[1:]) == 0, command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project's folder as who follows the guides sees it; two tables, and the guide of the catalogue followed."""
    folder = tmp_path_factory.mktemp("guides")
    write_table(folder / "products.csv", 0, 150)
    write_table(folder / "june.csv", 1000, 30)
    shutil.copy(folder / "photos/0.jpg", folder / "photo.jpg")
    shutil.copytree(
        ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("*.json", "model.*", "__pycache__")
    )
    (folder / "train").symlink_to(ROOT / "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Children, "_wait", forked)
        for command in commands("catalogue"):
            run(command, [])
        yield folder


def test_a_catalogue_ends_with_figures(folder: Path):
    for name in ("score", "june"):
        assert (folder / f"runs/mine/{name}/metrics.json").exists()
    assert (folder / "runs/mine/irrelevant/irrelevant.json").exists()


def test_small_data_is_trained_on_and_judged_beside_its_rivals(folder: Path):
    for command in commands("small_data"):
        run(command, [])
    assert (folder / "runs/small/again/metrics.json").exists() and list((folder / "runs/small/alone").glob("tfidf*"))


def test_several_ranks_train_all_stages(folder: Path):
    weights = load_file(folder / "runs/mine/bundle/model.safetensors")
    towers = {name.removeprefix(TOWERS): tensor for name, tensor in weights.items() if name.startswith(TOWERS)}
    save_file(towers, folder / "towers.safetensors")
    for command in commands("gpus"):
        run(command, [])
    assert (folder / "runs/paper/bundle/config.json").exists()


def test_a_server_is_filled_started_and_asked(folder: Path):
    lines = commands("serving")
    start = next(n for n, line in enumerate(lines) if line.startswith(SERVER))
    for line in lines[:start]:
        run(line, [])
    server = ServerProcess(Path("deploy/"), folder / "server.log")
    assert shlex.split(lines[start])[1:] == [word.replace("deploy", "deploy/") for word in server.command[1:4]]
    assert tritonserver().name == Path(SERVER).name
    with server:
        for line in lines[start + 1 :]:
            run(line, ["--url", server.url])
        (script,) = fences("serving", "python")
        assert "localhost:8001" in script
        found: dict[str, object] = {}
        exec(script.replace("localhost:8001", server.url), found)
    assert set(found["answer"].prediction) == {"color", "tags", "mismatch"}  # type: ignore[attr-defined]
    assert pq.read_table(folder / "answers.parquet").num_rows == 150


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_is_short_and_tested(guide: str):
    assert len((ROOT / f"docs/guides/{guide}.md").read_text().splitlines()) <= LONGEST
    assert guide in ("catalogue", "small_data", "gpus", "serving") and commands(guide)

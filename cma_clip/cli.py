"""`cma-clip NAME …`: every command of the project under one name; `python -m MODULE …` is the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from cma_clip.command import EXIT_BAD_INPUT


class Command(NamedTuple):
    """A row: the module whose `main()` it is, the pip extra that brings what it imports, and what it does."""

    module: str
    extra: str
    does: str


COMMANDS = {
    "fit": Command("train.fit.__main__", "train", "from a table to a bundle that is judged and ready to be served"),
    "prepare": Command("train.prepare.__main__", "train", "make a data set to train on"),
    "as-table": Command("dataset.as_table", "predict", "write a data set as products.csv and image files"),
    "cache": Command("train.cache.__main__", "train", "keep what the frozen part of a network says of a data set"),
    "train": Command("train.launch", "train", "train one stage on all devices: [DEEPSPEED OPTIONS --] --stage …"),
    "score": Command("train.score", "train", "judge a bundle on a split"),
    "report": Command("train.report.__main__", "train", "how good a bundle is, as one HTML file"),
    "compare": Command("train.compare", "train", "is a bundle worse than another one? exit code 1 if so"),
    "promise": Command("train.promise", "train", "decide which answers of a bundle are accepted, without training"),
    "add": Command("train.add.__main__", "train", "a task more for a bundle, trained alone on cached features"),
    "remove": Command("train.add.remove", "train", "a task less for a bundle, without training"),
    "rename": Command("train.rename", "train", "other names for tasks and labels of a bundle, without training"),
    "audit": Command(
        "train.audit.__main__", "train", "which labels of a data set are wrong, and a data set without them"
    ),
    "rivals": Command("train.rivals.__main__", "train", "fit and judge what needs no network, by scikit-learn"),
    "study": Command("train.study.__main__", "train", "train variants by seeds and compare them"),
    "study-report": Command("train.study.report", "train", "tables and plots of a study's runs"),
    "irrelevant": Command("train.study.irrelevant", "train", "how far a wrong title or image leads a bundle astray"),
    "export": Command("serve.export.__main__", "train", "build an engine from a bundle and publish it in deploy/"),
    "publish": Command("serve.publish.__main__", "train", "a new bundle into a running server, and back"),
    "serve": Command("serve.launch", "serve", "check the machine, then start tritonserver with a profile"),
    "local-server": Command("serve.local_server", "local-server", "put a tritonserver for demos beside python"),
    "classify": Command("client.classify", "", "ask the server about one product"),
    "predict": Command("client.predict.__main__", "predict", "ask the server about a whole catalogue"),
    "console": Command("client.console.__main__", "console", "a page for people: products to look at, and to try"),
    "decisions": Command("client.console.as_files", "console", "what was decided in the console, as files"),
    "canary": Command("client.canary", "", "is the server really alive?"),
    "show": Command("client.report", "train", "answers of the server for some products, as text and as an image"),
    "bench-adding": Command("bench.adding", "train", "time a new task, from cached features to a bundle"),
    "bench-caching": Command("bench.caching", "train", "time stages that read a cache beside those that do not"),
    "bench-console": Command("bench.console", "train", "time the pages of the console over many products"),
    "bench-engines": Command("bench.engines", "train", "time an engine beside eager PyTorch"),
    "bench-kernels": Command("bench.kernels", "train", "time the fused kernels on a GPU"),
    "bench-kernel-resources": Command("bench.kernel_resources", "train", "registers and memory of the kernels, no GPU"),
    "bench-kernel-tiles": Command(
        "bench.kernel_tiles", "train", "time every tile that might suit the kernels, on a GPU"
    ),
    "bench-load": Command("bench.load.__main__", "train", "put load on a server: sweep, overload, soak, compare"),
    "bench-preprocessing": Command("bench.preprocessing", "train", "time image preprocessing beside Pillow"),
    "bench-training": Command("bench.training", "train", "time training's stages beside a plain PyTorch loop"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("--help", "-h"):
        print(menu())
        return 0
    if name not in COMMANDS:
        return _refuse(f"{name!r} is none of cma-clip's commands: {', '.join(COMMANDS)}")
    sys.argv = [f"cma-clip {name}", *rest]
    row = COMMANDS[name]
    try:
        return importlib.import_module(row.module).main()
    except ModuleNotFoundError as missing:
        package = f"cma-clip[{row.extra}]" if row.extra else "cma-clip"
        return _refuse(f"cma-clip {name} needs {missing.name}, which is not installed: pip install '{package}'")


def menu() -> str:
    lines = [f"  {name:24}{row.does}" for name, row in COMMANDS.items()]
    return "\n".join(["usage: cma-clip COMMAND …   (cma-clip COMMAND --help says more)", "", *lines])


def _refuse(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())

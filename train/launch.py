"""Train one stage on all devices of this machine, or of several: train/main.py under DeepSpeed's launcher.

python -m train.launch --stage warmup --config train/recipes/apa.yaml --data data/mine --output runs/mine
python -m train.launch --num_accelerators 2 -- --stage warmup …
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from deepspeed.launcher import runner


def main(arguments: Sequence[str] | None = None) -> int:
    """Options before `--` are the launcher's; it ends the process with the exit code of a rank that failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else 0
    runner.main([*given[:end], str(Path(__file__).with_name("main.py")), *given[end + ("--" in given) :]])
    return 0


if __name__ == "__main__":
    sys.exit(main())

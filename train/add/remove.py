"""Take a task out of a bundle, without training; the other tasks answer as before.

python -m train.add.remove runs/mine/bundle --task sleeve --output runs/without_sleeve
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import command
from model.bundle import save_bundle
from train.add.__main__ import of_mismatch, open_for
from train.add.joined import bundle_without


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--output", type=Path, required=True, help="a new directory")
    args = parser.parse_args(arguments)
    if args.output.exists():
        raise ValueError(f"--output {args.output}: is there; name a new directory")
    bundle = open_for(args.bundle)
    config, network = bundle_without(bundle, args.task)
    save_bundle(args.output, config, network)
    for line in of_mismatch(bundle, args.task):
        print(f"note: {line}")
    print(f"bundle: {args.output}, label set {config.tasks.label_set_hash}")


if __name__ == "__main__":
    sys.exit(main())

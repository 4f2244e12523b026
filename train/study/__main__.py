"""Train the variants of a study by several seeds, measure them, and write tables and plots.

python -m train.study apa_mini open_clipart --output runs/study

Each run is a training like any other, by DeepSpeed's launcher; what is finished is not done again, so a study
may be stopped at any time (Ctrl-C) and gone on with by the same command.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from deepspeed.accelerator import get_accelerator
from tqdm import tqdm

from cma_clip.command import Stopped, command
from cma_clip.machine import processor
from train.study.plan import DataSet, Options, Run, Study, pretraining, read_study, runs_of
from train.study.report import report
from train.study.runs import Launcher, complete, pretrained_towers, towers_file


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    studies = dict(read_study(name) for name in args.study)
    try:
        done = run_studies(studies, args)
    except Stopped:
        print(f"tables of the runs that are done: python -m train.study.report {args.output}", file=sys.stderr)
        raise
    report(args.output)
    print(f"{done} runs: {args.output}/results.md, results.json and plots")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="*", default=["apa_mini", "open_clipart"], help="of train/studies, or a file")
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--variants", nargs="+", help="only these of the study's")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at once, each with its part of the cores (%(default)s)"
    )
    return parser


def run_studies(studies: dict[str, Study], args: argparse.Namespace) -> int:
    """Do what is left of all runs; returns how many have a result.

    Raises:
        Stopped: by a signal.
        ValueError: a run failed, or its settings do not fit.
    """
    for study in studies.values():
        for data in (study.pretrain, study.data):
            if data:
                prepare(data)
    is_cpu = get_accelerator().device_name() == "cpu"
    cpu = processor()
    has_bf16 = not is_cpu or bool({"avx512_bf16", "amx_bf16"} & set(cpu["cpu_features"]))
    ranks = 1 if is_cpu else get_accelerator().device_count()
    launcher = Launcher(ranks, threads=max(1, cpu["cores"] // args.jobs))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, launcher.stop)
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = _submit(pool, studies, args, "bf16" if has_bf16 else "fp32", launcher)
        for future in tqdm(as_completed(futures), "study", len(futures), unit="run"):
            if error := future.exception():
                launcher.stop()
                raise error
    return len(futures)


def _submit(
    pool: ThreadPoolExecutor,
    studies: dict[str, Study],
    args: argparse.Namespace,
    precision: str,
    launcher: Launcher,
) -> list[Future[None]]:
    """The towers of all studies first, then seed by seed the variants, which wait for theirs."""
    first = {name: pretraining(name, study, args.output, precision) for name, study in studies.items()}
    towers = {
        name: pool.submit(pretrained_towers, run, launcher, tqdm.write) if run else None for name, run in first.items()
    }

    def work(run: Run, weights: Future[Path] | None) -> None:
        complete(run, weights.result() if weights else None, launcher, tqdm.write)

    todo = []
    for name, study in studies.items():
        run = first[name]
        path = towers_file(run) if run else None
        chosen = study.model_copy(update={"variants": _chosen(name, study, args)})
        todo += [(run, towers[name]) for run in runs_of(name, chosen, args.output, precision, path)]
    todo.sort(key=lambda item: item[0].seed)
    return [pool.submit(work, *item) for item in todo]


def _chosen(name: str, study: Study, args: argparse.Namespace) -> dict[str, Options]:
    """The variants that the command line asks for."""
    wanted = args.variants or list(study.variants)
    variants = {variant: study.variants[variant] for variant in wanted if variant in study.variants}
    if not variants:
        raise ValueError(f"--variants {' '.join(wanted)}: study {name} has {', '.join(study.variants)}")
    return variants


def prepare(data: DataSet) -> None:
    """Make the data set unless it is there, with the same settings."""
    command = [sys.executable, "-m", "train.prepare", *data.prepare, "--output", str(data.directory)]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ValueError(f"{data.directory} cannot be prepared (exit code {code}); by itself: {' '.join(command[1:])}")


if __name__ == "__main__":
    sys.exit(main())

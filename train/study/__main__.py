"""Train the variants of a study by several seeds, measure them, and write tables and plots.

python -m train.study apa_mini open_clipart --output runs/study

Each run is a training like any other, by DeepSpeed's launcher; what is finished is not done again, so a study
may be stopped at any time (Ctrl-C) and gone on with by the same command. `--measure-again` trains nothing: it measures
the bundles of finished runs anew, all of them, where what is measured has grown.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from deepspeed.accelerator import get_accelerator
from tqdm import tqdm

from cma_clip.command import Stopped, command
from cma_clip.machine import processor
from train.study.plan import DataSet, Plan, Run, Study, read_study
from train.study.report import report
from train.study.runs import Launcher, complete, measure_again, train_towers


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    try:
        done = run_studies(dict(read_study(name) for name in args.study), args)
    except Stopped:
        print(f"tables of the runs that are done: python -m train.study.report {args.output}", file=sys.stderr)
        raise
    report(args.output)
    print(f"{done} runs: {args.output}/results.md, results.json, summary.json and plots")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="*", default=["apa_mini", "open_clipart"], help="of train/studies, or a file")
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--variants", nargs="+", help="only these of the study's")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at once, each with its part of the cores (%(default)s)"
    )
    parser.add_argument(
        "--measure-again", action="store_true", help="measure the runs that have a result anew, and train nothing"
    )
    return parser


def run_studies(studies: dict[str, Study], args: argparse.Namespace) -> int:
    """Do what is left of all runs, or measure those again that have a result; returns how many have one.

    Raises:
        Stopped: by a signal.
        ValueError: a run failed, or its settings do not fit.
    """
    is_cpu, cpu = get_accelerator().device_name() == "cpu", processor()
    has_bf16 = not is_cpu or bool({"avx512_bf16", "amx_bf16"} & set(cpu["cpu_features"]))
    plans = [Plan(name, study, args.output, "bf16" if has_bf16 else "fp32") for name, study in studies.items()]
    runs = sorted((run for plan in plans for run in plan.runs(args.variants)), key=lambda run: run.seed)
    if args.measure_again:
        runs = [run for run in runs if (run.directory / "result.json").exists()]
    for study in studies.values():
        if study.pretrain and not args.measure_again:
            prepare(study.pretrain)
        prepare(study.data)
    launcher = Launcher(1 if is_cpu else get_accelerator().device_count(), max(1, cpu["cores"] // args.jobs))
    torch.set_num_threads(launcher.threads)  # bundles are measured here, beside runs that train
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, launcher.stop)
    with ThreadPoolExecutor(args.jobs) as pool:
        if args.measure_again:
            futures = [pool.submit(measure_again, run, launcher) for run in runs]
        else:
            futures = _submit(pool, plans, runs, launcher)
        for future in tqdm(as_completed(futures), "study", len(futures), unit="run"):
            if error := future.exception():
                launcher.stop()
                raise error
    return len(futures)


def _submit(pool: ThreadPoolExecutor, plans: list[Plan], runs: list[Run], launcher: Launcher) -> list[Future[None]]:
    """The towers of all studies first, then the runs; those that start from towers wait for theirs."""
    first = [plan.pretraining for plan in plans if plan.pretraining]
    towers = {run.study: pool.submit(train_towers, run, launcher) for run in first}

    def work(run: Run) -> None:
        if run.towers:
            towers[run.study].result()
        complete(run, launcher)

    return [pool.submit(work, run) for run in runs]


def prepare(data: DataSet) -> None:
    """Make the data set unless it is there, with the same settings."""
    command = [sys.executable, "-m", "train.prepare", *data.prepare, "--output", str(data.directory)]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ValueError(f"{data.directory} cannot be prepared (exit code {code}); by itself: {' '.join(command[1:])}")


if __name__ == "__main__":
    sys.exit(main())

"""The study's results as Markdown: mean ± standard error over the seeds, one seed without an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cma_clip.tables import markdown
from train.study.results import REFERENCE, Variant, Variants

METRICS = {
    "recall_at_90_precision": "R@P90",
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "mean_average_precision": "mAP",
    "calibration_error": "ECE",
}
# What an irrelevant modality changes: metric -> its name, and which difference is shown.
CHANGES = {
    "recall_at_90_precision": ("R@P90", "drop"),
    "accuracy": ("accuracy", "drop"),
    "text_share": ("λ", "change"),
}


TOLD = {"auroc": "AUROC", "told": "told", "false_alarms": "false alarms"}


def results_markdown(studies: dict[str, Variants], images: dict[str, list[str]]) -> str:
    """The whole report.

    Args:
        images: data set -> links to its plots.
    """
    sections = [
        "# Results of the study",
        "Mean ± standard error over the seeds. Made by `python -m train.study.report`.",
    ]
    for data_set, variants in studies.items():
        sections += [f"## {data_set}", _origin(variants)]
        for title, note, table in _tables(variants):
            sections += [f"### {title}", *([note] if note else []), table.rstrip()]
        sections += [f"![{Path(link).stem}]({link})" for link in images[data_set]]
    return "\n\n".join(sections) + "\n"


def _origin(variants: Variants) -> str:
    runs = [run for variant in variants.values() for run in variant.runs]
    commits, hardware, versions = (
        list(dict.fromkeys(_plain(getattr(run, name)) for run in runs)) for name in ("commit", "hardware", "versions")
    )
    again = dict.fromkeys(str(run.measured_again.commit) for run in runs if run.measured_again)
    remark = f" Measured again at commit {', '.join(again)}." if again else ""
    return f"{len(runs)} runs. Commit {', '.join(commits)}; {'; '.join(hardware + versions)}.{remark}"


def _plain(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    words = (f"{key} {' '.join(map(str, part)) if isinstance(part, list) else part}" for key, part in value.items())
    return ", ".join(words)


def _tables(variants: Variants) -> Iterator[tuple[str, str, str]]:
    """Title, note and table of each section that there is something to say in."""
    tasks = tasks_of(variants)

    def by_task(group: str, head: Sequence[str], cells: Callable[[Variant, str], list[str]]) -> str:
        """A row for each task and each variant that has figures in the group."""
        pairs = [(task, variant) for task in tasks for variant in variants.values() if variant.holds(f"{group}/{task}")]
        rows = ([task, variant.title, *cells(variant, task)] for task, variant in pairs)
        return markdown(["task", "variant", *head], rows)

    labels = list(METRICS.values())
    yield "Test split", "", by_task("test", ["seeds", *labels], _test)
    if REFERENCE in variants and len(variants) > 1:
        note = f"{REFERENCE} minus the variant, paired by seed."
        yield f"Difference to {REFERENCE}", note, by_task("drop", ["pairs", *labels], _drop)
    if any(variant.holds("tuning") for variant in variants.values()):
        note = "Test split after tuning, and its gain over end_to_end, paired by seed."
        head = ["R@P90", *(f"gain in {label}" for label in labels)]
        yield "Tuning stage", note, by_task("tuning", head, _tuning)
    note = "Products with title, picture and label; a title names a label by a whole word."
    head = ["titles that name it", "λ named", "λ not named", "difference", "R@P90 named", "R@P90 not named"]
    yield "λ by what the title names", note, by_task("named", head, _named)
    note = (
        "First line: all products as they are. Then the drop (for λ the change) of the same products. Empty: not"
        " measured; `python -m train.study --measure-again` does it."
    )
    for task in tasks:
        for metric, (label, _) in CHANGES.items():
            yield f"Irrelevant modality: {label} of {task}", note, _irrelevant(variants, task, metric)
    if any(variant.exchanges for variant in variants.values()):
        note = "Exchanged pairs beside the products' own; told, and false alarms: those that reach the threshold."
        yield "What mismatch tells", note, _told(variants)
    yield "Time", "Wall time in minutes, of a whole run and of its stages (best epoch).", _time(variants)


def tasks_of(variants: Variants) -> list[str]:
    """Those of the data set; all its runs have answered the same."""
    return list(next(iter(variants.values())).runs[0].test)


def _test(variant: Variant, task: str) -> list[str]:
    return [str(len(variant.runs)), *(variant[f"test/{task}/{metric}"].text() for metric in METRICS)]


def _drop(variant: Variant, task: str) -> list[str]:
    drops = [variant[f"drop/{task}/{metric}"] for metric in METRICS]
    return [str(max(len(drop.values) for drop in drops)), *(drop.text(signed=True) for drop in drops)]


def _tuning(variant: Variant, task: str) -> list[str]:
    gains = [variant[f"tuning/{task}/{metric}"].text(signed=True) for metric in METRICS]
    return [variant[f"stages/tuning/test/{task}/recall_at_90_precision"].text(), *gains]


def _named(variant: Variant, task: str) -> list[str]:
    groups = [f"named/{task}/{group}" for group in ("named", "not_named")]
    named, not_named = (variant[f"{group}/products"].mean or 0 for group in groups)
    shares, recalls = (
        [variant[f"{group}/{metric}"].text() for group in groups] for metric in ("text_share", "recall_at_90_precision")
    )
    difference = variant[f"named/{task}/difference/text_share"].text(signed=True)
    return [f"{named:.0f} of {named + not_named:.0f}", *shares, difference, *recalls]


def _irrelevant(variants: Variants, task: str, metric: str) -> str:
    rows = [["untouched", *(variant[f"test/{task}/{metric}"].text() for variant in variants.values())]]
    for name in dict.fromkeys(name for variant in variants.values() for name in variant.perturbations):
        path = f"irrelevant/{name}/{task}/{CHANGES[metric][1]}/{metric}"
        cells = (
            variant[path].text(signed=True) if name in variant.perturbations else "" for variant in variants.values()
        )
        rows.append([name.replace("_", " "), *cells])
    return markdown(["", *(variant.title for variant in variants.values())], rows)


def _told(variants: Variants) -> str:
    rows = [
        [variant.title, name.replace("_", " "), *(variant[f"mismatch/{name}/{figure}"].text() for figure in TOLD)]
        for variant in variants.values()
        for name in variant.exchanges
    ]
    return markdown(["variant", "exchanged", *TOLD.values()], rows)


def _time(variants: Variants) -> str:
    stages = list(dict.fromkeys(stage for variant in variants.values() for stage in variant.runs[0].stages))
    rows = []
    for variant in variants.values():
        minutes = [variant[f"stages/{stage}/minutes"].text(digits=1) for stage in stages]
        epochs = [variant[f"stages/{stage}/epoch"].mean for stage in stages]
        cells = [f"{time} ({epoch:.3g})" if epoch else "" for time, epoch in zip(minutes, epochs, strict=True)]
        rows.append([variant.title, f"{variant['parameters'].mean:,.0f}", variant["minutes"].text(digits=1), *cells])
    return markdown(["variant", "parameters", "minutes", *stages], rows)

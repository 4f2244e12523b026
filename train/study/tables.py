"""The study's results as Markdown: mean ± standard error over the seeds, one seed without an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from train.study.results import NAMES, REFERENCE

METRICS = {
    "recall_at_90_precision": "R@P90",
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "mean_average_precision": "mAP",
    "calibration_error": "ECE",
}
DROPS = {"recall_at_90_precision": "R@P90", "accuracy": "accuracy", "text_share": "λ"}
Variants = dict[str, dict[str, Any]]


def markdown(studies: dict[str, Variants], pictures: dict[str, list[str]]) -> str:
    """The whole report.

    Args:
        pictures: data set -> links to its plots.
    """
    sections = [
        "# Results of the study",
        "Mean ± standard error over the seeds. Made by `python -m train.study.report`.",
    ]
    for data_set, variants in studies.items():
        sections += [f"## {data_set}", _origin(variants)]
        for title, note, table in _tables(variants):
            sections += [f"### {title}", *([note] if note else []), table]
        sections += [f"![{Path(link).stem}]({link})" for link in pictures[data_set]]
    return "\n\n".join(sections) + "\n"


def number(value: dict[str, Any] | None, signed: bool = False, digits: int = 3) -> str:
    """A summary as `0.956 ± 0.004`; n/a where it is not known."""
    if value is None or value["mean"] is None:
        return "n/a"
    mean = f"{round(value['mean'], digits) + 0.0:{'+' if signed else ''}.{digits}f}"  # + 0.0: no minus before zero
    return mean if value["standard_error"] is None else f"{mean} ± {value['standard_error']:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def name_of(variant: str) -> str:
    return NAMES.get(variant, variant.replace("_", " "))


def _origin(variants: Variants) -> str:
    facts: dict[str, list[str]] = {"commits": [], "hardware": [], "versions": []}
    for values in variants.values():
        for name, known in facts.items():
            known += [text for text in map(_plain, values[name]) if text not in known]
    runs = sum(len(values["seeds"]) for values in variants.values())
    return f"{runs} runs. Commit {', '.join(facts['commits'])}; {'; '.join(facts['hardware'] + facts['versions'])}."


def _plain(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    words = (f"{key} {' '.join(map(str, part)) if isinstance(part, list) else part}" for key, part in value.items())
    return ", ".join(words)


def _tables(variants: Variants) -> Iterable[tuple[str, str, str]]:
    """Title, note and table of each section that there is something to say in."""
    yield "Test split", "", _test(variants)
    if REFERENCE in variants and len(variants) > 1:
        yield f"Difference to {REFERENCE}", f"{REFERENCE} minus the variant, paired by seed.", _drop(variants)
    if any(values["tuning"] for values in variants.values()):
        yield (
            "Tuning stage",
            "Test split after tuning, and its gain over end_to_end, paired by seed.",
            _tuning(variants),
        )
    note = "Products with title, picture and label; a title names a label by a whole word."
    yield "λ by what the title names", note, _named(variants)
    for task in _tasks(variants):
        note = "First line: all products as they are. Then the drop (for λ the change) of the same products."
        for metric, label in DROPS.items():
            yield f"Irrelevant modality: {label} of {task}", note, _irrelevant(variants, task, metric)
    yield "Time", "Wall time in minutes, of a whole run and of its stages (best epoch).", _time(variants)


def _tasks(variants: Variants) -> list[str]:
    return list(dict.fromkeys(task for values in variants.values() for task in values["test"]))


def _test(variants: Variants) -> str:
    rows = [
        [task, name_of(variant), str(len(values["seeds"])), *(number(values["test"][task].get(m)) for m in METRICS)]
        for task in _tasks(variants)
        for variant, values in variants.items()
    ]
    return table(["task", "variant", "seeds", *METRICS.values()], rows)


def _drop(variants: Variants) -> str:
    rows = [
        [task, name_of(variant), _pairs(values["drop"][task]), *_signed(values["drop"][task])]
        for task in _tasks(variants)
        for variant, values in variants.items()
        if task in values["drop"]
    ]
    return table(["task", "variant", "pairs", *METRICS.values()], rows)


def _tuning(variants: Variants) -> str:
    rows = [
        [task, name_of(variant), number(values["stages"]["tuning"]["test"][task]["recall_at_90_precision"])]
        + _signed(values["tuning"][task])
        for task in _tasks(variants)
        for variant, values in variants.items()
        if task in values["tuning"]
    ]
    return table(["task", "variant", "R@P90", *(f"gain in {label}" for label in METRICS.values())], rows)


def _signed(metrics: dict[str, Any]) -> list[str]:
    return [number(metrics.get(metric), signed=True) for metric in METRICS]


def _pairs(metrics: dict[str, Any]) -> str:
    return str(max(value["n"] for value in metrics.values()))


def _named(variants: Variants) -> str:
    head = ["task", "variant", "titles that name it", "λ named", "λ not named", "difference"]
    rows = []
    for task in _tasks(variants):
        for variant, values in variants.items():
            groups = values["named"][task]
            yes, no = (groups[name] for name in ("named", "not_named"))
            count = f"{yes['products']['mean']:.0f} of {yes['products']['mean'] + no['products']['mean']:.0f}"
            shares = [number(yes["text_share"]), number(no["text_share"])]
            shares.append(number(groups["difference"]["text_share"], signed=True))
            right = [number(group["recall_at_90_precision"]) for group in (yes, no)]
            rows.append([task, name_of(variant), count, *shares, *right])
    return table([*head, "R@P90 named", "R@P90 not named"], rows)


def _irrelevant(variants: Variants, task: str, metric: str) -> str:
    perturbations = dict.fromkeys(name for values in variants.values() for name in values["irrelevant"])
    rows = [["untouched", *(number(values["test"][task].get(metric)) for values in variants.values())]]
    for perturbation in perturbations:
        cells = []
        for values in variants.values():
            drop = values["irrelevant"].get(perturbation, {}).get(task, {}).get("drop", {}).get(metric)
            cells.append(number(_negative(drop) if metric == "text_share" else drop, signed=True))
        rows.append([perturbation.replace("_", " "), *cells])
    return table(["", *map(name_of, variants)], rows)


def _negative(value: dict[str, Any] | None) -> dict[str, Any] | None:
    return value if value is None or value["mean"] is None else value | {"mean": -value["mean"]}


def _time(variants: Variants) -> str:
    stages = list(dict.fromkeys(stage for values in variants.values() for stage in values["stages"]))
    rows = []
    for variant, values in variants.items():
        cells = []
        for stage in stages:
            part = values["stages"].get(stage)
            cells.append(f"{number(part['minutes'], digits=1)} ({part['epoch']['mean']:.3g})" if part else "")
        parameters = f"{values['parameters']['mean']:,.0f}"
        rows.append([name_of(variant), parameters, number(values["minutes"], digits=1), *cells])
    return table(["variant", "parameters", "minutes", *stages], rows)

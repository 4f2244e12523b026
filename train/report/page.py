"""The report as one HTML file: it needs no network, so that it can be sent by mail."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import torch
import yaml

from cma_clip.machine import commit, processor
from dataset.format import DatasetInfo
from model.config import BundleConfig, PreprocessConfig
from model.images import decode_image
from model.refusal import Refusal
from model.tasks import Task, TaskSet, labels_for_people
from train.acceptance import remarks
from train.answers import answers_by_task
from train.data import ProductDataset
from train.metrics import applicability_lines
from train.predict import Predictions
from train.report.before import Before, since
from train.report.content import CARDS, Told, galleries, of_task, perturbed
from train.study.naming import Naming

# N products, C labels of all tasks, K tasks

THUMBNAIL = 80  # pixels
TITLE = 200  # characters shown
CARDS_IN_ALL = 1000


def render(
    config: BundleConfig,
    info: DatasetInfo,
    dataset: ProductDataset,
    answers: Predictions,
    split: str,
    metrics: Mapping[str, Mapping[str, Any]],
    perturbations: Mapping[str, Mapping[str, Any]] | None = None,
    before: Before | None = None,
) -> str:
    """The whole page.

    Args:
        info: of the data set that `dataset` is a split of.
        answers: of the split, and perhaps behind them those of its products under wrong titles.
        metrics: of these answers, as train.metrics.task_metrics.
        perturbations: what train.study.irrelevant found, where it ran.
        before: another bundle that this one is held against.
    """
    tasks = config.tasks
    own = answers.of(range(len(dataset)))
    scores = tasks.scores(own.logits_NC.numpy())
    decoded = tasks.predictions(scores, own.text_share_NK.numpy(), own.present_N2.numpy())
    naming, pages = Naming(info), []
    columns = dataset.columns("title", *(task.name for task in tasks.labelled))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    judged = answers_by_task(own.logits_NC, own.targets_NC, tasks)
    most = max(4, min(CARDS, CARDS_IN_ALL // (4 * len(tasks.labelled))))
    for number, one in enumerate(judged):
        if not one.task.is_labelled or not len(one.targets_NL):
            continue
        named = [naming.names_label(rows[place], one.task) for place in one.place_N]
        named_N = np.array([-1 if known is None else int(known) for known in named])
        told = Told(one, own.text_share_NK[one.place_N, number].numpy(), named_N)
        against = since(before, told, most)
        pages.append(of_task(told, most) | against | {"perturbations": perturbed(one.task.name, perturbations or {})})
    fill(pages, tasks, dataset, decoded, config.preprocess)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("train.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        tasks=pages,
        metrics=metrics,
        applicability=applicability_lines(metrics),
        mismatch=[metrics[task.name] for task in tasks if not task.is_labelled],
        notes=remarks(tasks),
        split=split,
        before=before.name if before else "",
        speed=before.speed if before else "",
        facts=facts(config, info, dataset, own.present_N2, columns["title"]),
        recipe=yaml.safe_dump(config.provenance.get("recipe", {}), sort_keys=False),
    )


def facts(
    config: BundleConfig, info: DatasetInfo, dataset: ProductDataset, present_N2: torch.Tensor, titles: Sequence[str]
) -> dict[str, str]:
    """What was trained on what, and judged by what."""
    known, machine = config.provenance, processor()
    sizes = ", ".join(f"{name} {split.rows:,}" for name, split in info.splits.items())
    return {
        "network": f"{config.model.architecture} over {config.model.clip}",
        "last stage": f"{known.get('stage', 'not known')}, epoch {known.get('epoch', 'not known')}",
        "trained on": f"data set {str(known.get('data_hash', 'not known'))[:12]}",
        "trained by": _machine(known.get("trained_by")),
        "judged on": f"{dataset.name}: {len(dataset):,} products ({sizes}; data set {info.hash[:12]})",
        "titles and images": _modalities(present_N2, titles),
        "products come from": info.source,
        "labels": f"{config.tasks.label_set_hash}: "
        + ", ".join(f"{task.name} {len(task.labels)}" for task in config.tasks.labelled),
        "judged by": f"torch {torch.__version__}, {machine['cpu']}, commit {commit() or 'not known'}",
        "written": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _modalities(present_N2: torch.Tensor, titles: Sequence[str]) -> str:
    """How many products have which, and how long titles are."""
    title_N, image_N = present_N2.T
    words = [len(title.split()) for title in titles if title]
    length = f", {np.median(words):.0f} words in the median" if words else ""
    both, title, image = (int(of_N.sum()) for of_N in (title_N & image_N, title_N & ~image_N, image_N & ~title_N))
    return f"both {both:,}, a title alone {title:,}, an image alone {image:,}{length}"


def _machine(trained_by: Mapping[str, Any] | None) -> str:
    if trained_by is None:
        return "not known"
    return "{ranks} ranks, {device}, torch {torch}, commit {commit}".format_map(trained_by)


def fill(
    pages: Sequence[dict[str, Any]],
    tasks: TaskSet,
    dataset: ProductDataset,
    decoded: Sequence[dict[str, Any]],
    preprocess: PreprocessConfig,
) -> None:
    """Put products in the galleries where their places stand. The split is read in its order, each product once."""
    of_place = {place for page in pages for gallery in galleries(page) for place in gallery}
    rows = {place: dataset.product(place) for place in sorted(of_place)}
    images = {place: thumbnail(row.pop("image") or b"", preprocess) for place, row in rows.items()}
    by_name = {task.name: task for task in tasks}
    for page in pages:
        task = by_name[page["name"]]
        for gallery in galleries(page):
            gallery[:] = [_card(dataset, task, rows[n], images[n], decoded[n][task.name]) for n in gallery]


def _card(dataset: ProductDataset, task: Task, row: dict[str, Any], image: str, said: dict[str, Any]) -> dict[str, Any]:
    is_unasked = task.name in dataset.not_asked(row)
    return {
        "id": row["id"],
        "title": (row["title"] or "")[:TITLE],
        "image": image,
        "true": ", ".join(task.labels_in(row[task.name])) or ("not applicable" if is_unasked else "none"),
        "said": labels_for_people(said),
        "score": said["top"][0][1],
        "text_share": said["text_share"],
        "accepted": said["accepted"],
        "refused": said.get("refused", ""),
    }


def thumbnail(encoded: bytes, preprocess: PreprocessConfig) -> str:
    """An image as a data URI; "" where there is none that can be read."""
    if not encoded:
        return ""
    try:
        image = decode_image(encoded, preprocess).convert("RGB")
    except Refusal:
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    small = io.BytesIO()
    image.save(small, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}"

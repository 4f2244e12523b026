"""What the server answers for some products of a data set, and for one under a wrong title, as text and as an image.

python -m client.report --data data/apa_mini --output runs/apa_mini/report.png
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from client.classifier import Classifier
from client.protocol import Answer
from cma_clip.command import command
from dataset.format import DatasetInfo
from dataset.splits import SPLITS
from model.tasks import MISMATCH, NOT_APPLICABLE, TaskSet, labels_for_people

TEXT_COLOR, IMAGE_COLOR = "#4477aa", "#ddaa33"


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--products", type=int, default=5)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for the server")
    parser.add_argument("--output", type=Path, default=Path("report.png"))
    args = parser.parse_args(arguments)
    tasks, products = read_products(args.data, args.split, args.products)
    with Classifier(args.url) as classifier:
        classifier.wait_until_ready(args.wait)
        answers = [classifier.classify(product["title"], product["image"]) for product in products]
        lies = under_a_wrong_title(products, answers, tasks)
        answers += [classifier.classify(product["title"], product["image"]) for product in lies]
    products += lies
    for product, answer in zip(products, answers, strict=True):
        print("\n  ".join([f"{product['id']}: {product['title']!r}", *verdicts(product, answer, tasks)]))
    print(", ".join(acceptance(answers, tasks)))
    draw(products, answers, tasks, args.output)
    print(f"image: {args.output}")


def read_products(data: Path, split: str, count: int) -> tuple[TaskSet, list[dict[str, Any]]]:
    """The data set's tasks and `count` products, spread evenly over the split's first shard.

    Raises:
        ValueError: the split does not exist, or has fewer products.
    """
    info = DatasetInfo.read(data)
    if split not in info.splits:
        raise ValueError(f"{data}: no split {split!r}, only {sorted(info.splits)}")
    shard = info.splits[split].shards[0]
    if not 1 <= count <= shard.rows:
        raise ValueError(f"--products {count}: expected 1 to {shard.rows}")
    table = pq.read_table(data / shard.file)
    return info.tasks, [table.slice(i * shard.rows // count, 1).to_pylist()[0] for i in range(count)]


def under_a_wrong_title(
    products: Sequence[dict[str, Any]], answers: Sequence[Answer], tasks: TaskSet
) -> list[dict[str, Any]]:
    """The title that says most (by its largest λ), on the last product whose labels all differ.

    If there is none, the title that says most but for that, and so on; nothing where no two products differ.
    """
    shares = [answer.text_share[: len(tasks)].max() for answer in answers]
    for place in sorted(range(len(products)), key=lambda place: -shares[place]):
        donor = products[place]
        for product in reversed(products):
            labels = [(task.labels_in(product[task.name]), task.labels_in(donor[task.name])) for task in tasks]
            if product["image"] and donor["title"] and all(a and b and not set(a) & set(b) for a, b in labels):
                name = f"{product['id']} under the title of {donor['id']}"
                return [product | {"id": name, "title": donor["title"]}]
    return []


def verdicts(product: dict[str, Any], answer: Answer, tasks: TaskSet) -> list[str]:
    """A line a task: answer, score, λ, and the true label where it differs."""
    lines = []
    for task in tasks:
        said, true = answer.prediction[task.name], product[task.name]
        is_right = set(said["labels"]) == set(task.labels_in(true))
        verdict = "no label" if true is None else "right" if is_right else f"wrong, it is {true}"
        applies, score = said.get("refused") != NOT_APPLICABLE, max(said["scores"], default=0.0)
        answer_text = task.stored(said["labels"]) if applies else labels_for_people(said)
        lines.append(f"{task.name}: {answer_text}  score {score:.3f}  λ {said['text_share']:.2f}  ({verdict})")
    mismatch = answer.prediction.get(MISMATCH)
    if mismatch:
        lines.append(f"{mismatch['label']}  score of a mismatch {mismatch['score']:.3f}")
    return lines


def acceptance(answers: Sequence[Answer], tasks: TaskSet) -> list[str]:
    """How many of the answers each task accepts: all or none tells of a threshold that nothing was fitted for."""
    accepted = {task.name: sum(answer.prediction[task.name]["accepted"] for answer in answers) for task in tasks}
    return [f"{name}: {count} of {len(answers)} accepted" for name, count in accepted.items()]


def draw(products: Sequence[dict[str, Any]], answers: Sequence[Answer], tasks: TaskSet, output: Path) -> None:
    """A PNG with a row a product: image, title and labels, a bar of λ per task."""
    figure = Figure(figsize=(11, 1.7 * len(products)), layout="constrained")
    rows = figure.subplots(len(products), 3, width_ratios=(1, 4, 3), squeeze=False)
    for (photo, text, bars), product, answer in zip(rows, products, answers, strict=True):
        if product["image"]:
            photo.imshow(Image.open(io.BytesIO(product["image"])).convert("RGB"))
        photo.axis("off")
        text.axis("off")
        lines = [f"{product['id']}:", product["title"], "", *verdicts(product, answer, tasks)]
        text.text(0, 0.5, "\n".join(lines), va="center", fontsize=9, parse_math=False, wrap=True)
        _draw_text_share(bars, answer, tasks)
    parts = [Patch(color=TEXT_COLOR, label="title (λ)"), Patch(color=IMAGE_COLOR, label="image (1 - λ)")]
    figure.legend(handles=parts, loc="outside upper right", ncols=2, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def _draw_text_share(axes: Axes, answer: Answer, tasks: TaskSet) -> None:
    names, shares = [task.name for task in tasks], answer.text_share[: len(tasks)]
    axes.barh(names, shares, color=TEXT_COLOR)
    axes.barh(names, 1 - shares, left=shares, color=IMAGE_COLOR)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())

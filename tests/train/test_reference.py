"""What a bundle says of its validation answers, against counting the answers that a caller reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tagged_files import write_tagged
from tiny import tiny_bundle_config, tiny_network

from dataset.format import DatasetInfo
from model.bundle import Bundle, load_bundle
from model.preprocess import TitleTokenizer
from model.reference import BINS, INAPPLICABLE, MOST_LABELS, NONE, OTHER, WATCHED
from model.tasks import Condition, MultiLabel, SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from train.data import IN_ORDER, ProductDataset
from train.predict import Predictions, answers_for
from train.reference import reference_of

MANY = SingleLabel(name="many", labels=[f"l{n}" for n in range(MOST_LABELS + 50)])
TAGS = MultiLabel(name="tags", labels=["a", "b", "c"], thresholds=[0.3, 0.5, 0.9])
WEAR = SingleLabel(name="wear", labels=["x", "y"], only_if=Condition(task="tags", labels=["b", "c"]))
SIZES = MultiLabel(name="sizes", labels=["s", "m"], only_if=Condition(task="wear", labels=["x"]))
TASKS = TaskSet([MANY, TAGS, WEAR, SIZES]).with_mismatch()


def counted(answers: list[dict]) -> dict[str, dict[str, Counter[str]]]:
    """task -> kind -> products by label or bin, of answers as a caller reads them."""
    found = {task: {kind: Counter[str]() for kind in WATCHED} for task in answers[0]}
    for answer in answers:
        for task, said in answer.items():
            applies = said.get("refused") != "not_applicable"
            found[task]["labels"].update(said["labels"] or [NONE if applies else INAPPLICABLE])
            best = [("scores", max(score for _, score in said["top"]))] if applies else []
            for kind, value in [*best, ("text_share", said["text_share"])]:
                found[task][kind][f"{min(int(value * BINS), BINS - 1) / BINS:.1f}"] += 1
    return found


def drawn(products: int) -> Predictions:
    torch.manual_seed(0)
    logits_NC = 2 * torch.randn(products, TASKS.num_columns)
    logits_NC[:, :3] += 2  # some labels are frequent
    share_NK, present_N2 = torch.rand(products, len(TASKS)), torch.ones(products, 2, dtype=torch.bool)
    return Predictions(logits_NC, share_NK, torch.zeros_like(logits_NC), present_N2, [])


def predictions(answers: Predictions) -> list[dict]:
    scores = TASKS.scores(answers.logits_NC.numpy())
    return TASKS.predictions(scores, answers.text_share_NK.numpy(), answers.present_N2.numpy())


def test_it_counts_what_callers_read():
    answers = drawn(3000)
    reference = reference_of(answers, TASKS)
    assert reference.products == 3000
    for task, kinds in counted(predictions(answers)).items():
        own = reference.tasks[task]
        if task == "many":
            rare = sum(count for label, count in kinds["labels"].items() if label not in own.labels)
            kinds["labels"] = Counter({label: kinds["labels"][label] for label in own.labels}) + Counter({OTHER: rare})
            assert len(own.labels) == MOST_LABELS and rare > 50
        for kind in WATCHED:
            assert +Counter(own.counts(kind)) == kinds[kind], (task, kind)
    assert reference.tasks["tags"].labels[NONE] > 0 and NONE not in reference.tasks["many"].labels
    assert set(reference.tasks["mismatch"].labels) == {"mismatch", NONE}
    wear, sizes = reference.tasks["wear"], reference.tasks["sizes"]
    assert 100 < wear.labels[INAPPLICABLE] < sizes.labels[INAPPLICABLE] and sizes.labels[NONE] > 100
    assert sum(wear.scores) == 3000 - wear.labels[INAPPLICABLE] and sum(wear.text_share) == 3000
    assert INAPPLICABLE not in reference.tasks["tags"].labels
    reference.check({task.name: task.labels for task in TASKS})


def test_what_is_no_number_counts_nowhere():
    answers = drawn(20)
    answers.logits_NC[3, 1] = float("nan")
    assert reference_of(answers, TASKS) == reference_of(answers.of([n for n in range(20) if n != 3]), TASKS)


def test_products_that_cannot_be_read_are_known_by_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The server would refuse them; here they are blank, and answered like any other."""
    data = write_tagged(tmp_path / "data")
    (shard,) = (data / "split=validation").glob("*.parquet")
    table = pq.read_table(shard)
    rows = table.to_pylist()
    for place in (2, 5):
        rows[place]["image"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), shard)
    tasks = DatasetInfo.read(data).tasks
    config = tiny_bundle_config(tasks=tasks)
    tokenizer = TitleTokenizer(build_tokenizer(config.preprocess.vocab_size), config.preprocess)
    bundle = Bundle(config, tiny_network(tasks=tasks), tokenizer)
    answers = answers_for(bundle, ProductDataset(data, "validation", config.preprocess, tokenizer, IN_ORDER), 4)
    assert answers.unreadable == (2, 5) and len(answers.logits_NC) == len(rows)
    assert capsys.readouterr().err.count("not judged: ") == 2


def test_a_trained_bundle_has_that_of_its_validation_answers(run: Path, data: Path):
    """Trained on two ranks and counted in this process: a score on the edge of two bins may fall into either."""
    bundle = load_bundle(run / "bundle")
    rows = pq.read_table(data / "split=validation").to_pylist()
    answers = bundle.classify([(row["title"], row["image"]) for row in rows])
    reference = bundle.config.reference
    assert reference is not None and reference.products == len(rows)
    for task, kinds in counted(answers).items():
        for kind in WATCHED:
            ours, theirs = reference.tasks[task].counts(kind), kinds[kind]
            assert sum(ours.values()) >= len(rows) > 30
            assert sum(abs(ours.get(place, 0) - theirs[place]) for place in {*ours, *theirs}) <= 2, (task, kind)
    assert load_bundle(run / "contrastive/best").config.reference is None

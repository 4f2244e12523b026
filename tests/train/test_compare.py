"""Two bundles on the same products: what is said, and when the exit code says that the second is worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_set_files import picture
from tiny import tiny_bundle_config, tiny_network

from cma_clip.command import EXIT_BAD_INPUT, EXIT_FAILED
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.bundle import save_bundle
from model.tasks import SingleLabel
from train.compare import main, table
from train.report.before import Change

COLOR = SingleLabel(name="color", labels=["red", "blue", "green"])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Products of which two in three are red, a bundle that answers red, and one that answers blue."""
    folder = tmp_path_factory.mktemp("compare")
    rows = [
        Product(f"{split}-{n}", picture(n), f"dress {n}", {"color": "green" if n % 3 == 0 else "red"}, split)
        for split, count in (("train", 4), ("validation", 4), ("test", 60))
        for n in range(count)
    ]
    write_rows(NewDataset(folder / "data", [COLOR], source="drawn", settings={}), rows)
    for place, name in enumerate(("red", "blue")):
        network = tiny_network(tasks=[COLOR])
        with torch.no_grad():
            network.modality_heads.output_bias[place] += 100
        save_bundle(folder / name, tiny_bundle_config(tasks=[COLOR]), network)
    return folder / "data", folder / "red", folder / "blue"


def test_a_bundle_that_is_worse_ends_with_1_and_one_that_is_not_with_0(bundles, tmp_path, capsys):
    data, right, wrong = bundles
    page = tmp_path / "compare.html"
    assert main([str(right), str(wrong), "--data", str(data), "--output", str(page)]) == EXIT_FAILED
    said = capsys.readouterr()
    row = next(line.split() for line in said.out.splitlines() if line.startswith("color  right "))
    assert row[2:5] == ["0.667", "0.000", "-0.667"] and row[-1] == "WORSE" and "color: right" in said.err
    assert "0 wrong answers are right now, 40 right ones are wrong, 20 wrong ones are others, of 60" in said.out
    assert "times as long" in said.out and "What has changed since" in page.read_text()
    assert main([str(wrong), str(right), "--data", str(data)]) == 0
    assert "better" in capsys.readouterr().out
    assert main([str(right), str(right), "--data", str(data)]) == 0
    assert main([str(right), str(wrong), "--data", str(data), "--limit", "1"]) == 0


def test_a_task_of_one_bundle_alone_is_named_and_the_others_are_compared(bundles, tmp_path, capsys):
    _, right, _ = bundles
    tasks = [SingleLabel(name="size", labels=["s", "m"]), COLOR]
    rows = [
        Product(f"{split}-{n}", picture(n), f"dress {n}", {"color": "red", "size": "s"}, split)
        for split in ("train", "validation", "test")
        for n in range(4)
    ]
    write_rows(NewDataset(tmp_path / "data", tasks, source="drawn", settings={}), rows)
    network = tiny_network(tasks=tasks)
    save_bundle(tmp_path / "two", tiny_bundle_config(tasks=tasks), network)
    for pair in ([right, tmp_path / "two"], [tmp_path / "two", right]):
        assert main([*map(str, pair), "--data", str(tmp_path / "data"), "--limit", "1"]) == 0
        said = capsys.readouterr().out
        assert f"size: only {tmp_path / 'two'} answers it, so there is nothing to compare" in said
        assert "color  right" in said and "size  right" not in said


def test_worse_is_what_is_sure_and_more_than_the_limit_whichever_way_is_good():
    found = {
        "color": [
            Change("right", 0.9, 0.8, -0.12, -0.08),
            Change("may be chance", 0.9, 0.8, -0.2, 0.01),
            Change("calibration error", 0.1, 0.15, 0.04, 0.06, better=-1),
            Change("better", 0.8, 0.9, 0.05, 0.15),
            Change("unknown", None, 0.5, 0.0, 0.0),
        ]
    }
    verdicts = [line.split()[-1] for line in table(found, 0.06).splitlines()[1:]]
    assert verdicts == ["WORSE", "+0.010", "+0.060", "better", "+0.000"]
    assert [line.split()[-1] for line in table(found, 0.0).splitlines()[1:]][2] == "WORSE"


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--limit", "-1"], "expected 0 or more"), (["--output", "{data}"], "expected a file in a folder")],
)
def test_wrong_options_cost_one_line(bundles, capsys, options, says):
    data, right, wrong = bundles
    options = [option.format(data=data) for option in options]
    assert main([str(right), str(wrong), "--data", str(data), *options]) == EXIT_BAD_INPUT
    assert says in capsys.readouterr().err


def test_bundles_of_other_labels_are_refused(bundles, tmp_path, capsys):
    data, right, _ = bundles
    other = [SingleLabel(name="color", labels=["red", "blue", "pink"])]
    save_bundle(tmp_path / "other", tiny_bundle_config(tasks=other), tiny_network(tasks=other))
    assert main([str(right), str(tmp_path / "other"), "--data", str(data)]) == EXIT_BAD_INPUT
    assert "its tasks or labels are not those of the bundle" in capsys.readouterr().err

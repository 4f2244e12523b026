"""The steps of a fit: a device that has not the memory gets half of the products at once, once a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shop import shop_rows, write_shop

from cma_clip.command import NoMemory
from train.fit import plan as plans
from train.fit.__main__ import _parser
from train.fit.steps import run
from train.prepare.__main__ import main as prepare
from train.recipe import load_recipe


class Device:
    """Has memory for so many products at once, by what the recipe says when a stage begins."""

    def __init__(self, products: int, output: Path) -> None:
        self.products, self.output, self.ran = products, output, list[str]()

    def work(self, what: str, *_: Any) -> None:
        self.ran.append(what)
        stages = load_recipe(self.output / "recipe.yaml", []).stages
        if hasattr(stages, what) and getattr(stages, what).micro_batch_size > self.products:
            raise NoMemory(f"{what}: no memory on the device")


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> plans.Plan:
    monkeypatch.setattr(plans, "seconds_per_product", lambda *_: 0.02)
    table = write_shop(tmp_path / "shop.csv", shop_rows(tmp_path, 120))
    words = [str(table), "--output", str(tmp_path / "out"), "--no-rivals", "--no-export"]
    plan = plans.settle(*_parser().parse_known_args(words), [])
    assert prepare(plan.prepare) == 0
    return plan


def micro_batches(output: Path) -> dict[str, int]:
    stages = load_recipe(output / "recipe.yaml", []).stages
    return {name: getattr(stages, name).micro_batch_size for name in ("warmup", "end_to_end", "tuning")}


def test_half_is_taken_in_the_stage_and_those_after_it(settled, tmp_path, capsys):
    output = tmp_path / "out"
    before = (output / "recipe.yaml").read_text()
    full = micro_batches(output)
    batch = load_recipe(output / "recipe.yaml", []).stages.warmup.batch_size
    device = Device(0, output)
    with pytest.raises(NoMemory, match="warmup"):
        run(settled, output, tmp_path / "deploy", device)
    assert device.ran == ["warmup", "warmup"]
    (output / "recipe.yaml").write_text(before)
    device = Device(batch // 2, output)
    capsys.readouterr()
    run(settled, output, tmp_path / "deploy", device)
    assert device.ran == ["warmup", "warmup", "end_to_end", "tuning", "score"]
    assert set(micro_batches(output).values()) == {batch // 2} != set(full.values())
    assert f"warmup: no memory for it on the device: once more, with {batch // 2} products at once" in (
        capsys.readouterr().out
    )
    assert (output / "recipe.yaml").read_text().partition("\n")[0] == before.partition("\n")[0]


def test_one_product_cannot_be_halved(settled, tmp_path):
    output = tmp_path / "out"
    text = (output / "recipe.yaml").read_text()
    (output / "recipe.yaml").write_text(text.replace("micro_batch_size: 64", "micro_batch_size: 1"))
    assert set(micro_batches(output).values()) == {1}
    device = Device(0, output)
    with pytest.raises(NoMemory, match="warmup"):
        run(settled, output, tmp_path / "deploy", device)
    assert device.ran == ["warmup"]

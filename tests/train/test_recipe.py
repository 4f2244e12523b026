"""Recipes and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import ROOT

from train.recipe import Recipe, deepspeed_config, load_recipe

APA = ROOT / "train/recipes/apa.yaml"


def test_the_papers_settings():
    recipe = load_recipe(APA, [])
    assert (recipe.model.clip, recipe.model.sequence_layers, recipe.model.sequence_heads) == (
        "ViT-B-32-quickgelu",
        12,
        8,
    )
    for stage in (recipe.stages.warmup, recipe.stages.end_to_end, recipe.stages.tuning):
        assert (stage.epochs, stage.batch_size, stage.learning_rate, stage.weight_decay) == (20, 1024, 1e-5, 1e-4)
    config = deepspeed_config(recipe, recipe.stages.warmup, world_size=8, on_gpu=True)
    assert config["train_micro_batch_size_per_gpu"] == 128 and config["gradient_accumulation_steps"] == 1
    assert config["zero_optimization"]["stage"] == 1 and config["torch_autocast"]["enabled"]


@pytest.mark.parametrize(
    ("name", "number"),
    [("fashion_gen", "93.6 %"), ("food101", "93.1 %"), ("mm_imdb", "micro F1 65.3 %, macro F1 52.7 %")],
)
def test_the_papers_settings_for_its_public_data_sets(name: str, number: str):
    file = ROOT / f"train/recipes/{name}.yaml"
    recipe, apa = load_recipe(file, []), load_recipe(APA, [])
    assert recipe.model == apa.model and recipe.class_weights == "none"
    for stage, epochs in ((recipe.stages.warmup, 100), (recipe.stages.end_to_end, 300)):
        assert stage == apa.stages.warmup.model_copy(update={"epochs": epochs})
    comments = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"# python -m train.prepare {name} " in comments and f"--config train/recipes/{name}.yaml" in comments
    assert number in comments and "Ours: " in comments


@pytest.mark.parametrize("file", sorted((ROOT / "train/recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_loads_and_opens_with_its_command(file: Path):
    load_recipe(file, [])
    opening = file.read_text().partition("\nmodel:")[0]
    assert opening.startswith("#") and "train/main.py" in opening and f"--config train/recipes/{file.name}" in opening


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_gradients_accumulate_up_to_the_batch(ranks: int, accumulation: int):
    recipe = Recipe()
    config = deepspeed_config(recipe, recipe.stages.warmup, ranks, on_gpu=False)
    assert config["gradient_accumulation_steps"] == accumulation and not config["torch_autocast"]["enabled"]


def test_dotted_options_win():
    options = ["--stages.tuning.epochs", "3", "--model.pretrained=weights.pt", "--zero_level", "2"]
    recipe = load_recipe(APA, options)
    assert (recipe.stages.tuning.epochs, recipe.model.pretrained, recipe.zero_level) == (3, "weights.pt", 2)
    assert recipe.stages.warmup.epochs == 20


def test_deepspeeds_file_is_laid_over_group_by_group(tmp_path: Path):
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"overlap_comm": true}, "wall_clock_breakdown": true}')
    recipe = Recipe()
    merged = deepspeed_config(recipe, recipe.stages.warmup, 1, False, file)
    assert merged["zero_optimization"] == {"stage": 1, "overlap_comm": True} and merged["wall_clock_breakdown"]
    for text, message in (("[1]", "expected a JSON object, got list"), ("{", "not a readable DeepSpeed configuration")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            deepspeed_config(recipe, recipe.stages.warmup, 1, False, file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("modle: {}", "modle: Extra inputs"),
        ("model: {dropout: 2}", "model.dropout: Input should be"),
    ],
)
def test_a_bad_recipe_names_file_and_key(tmp_path: Path, text: str, message: str):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_recipe(file, [])
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "option",
    [
        "batch_size=0",
        "batch_size=-8",
        "batch_size=2.5",
        "micro_batch_size=0",
        "epochs=0",
        "learning_rate=.nan",
        "learning_rate=.inf",
        "learning_rate=0",
        "gradient_clipping=.nan",
        "weight_decay=-1",
    ],
)
def test_a_number_that_trains_nothing_is_one_line(option: str):
    with pytest.raises(ValueError, match=f"stages.warmup.{option.partition('=')[0]}: Input should be") as error:
        load_recipe(APA, [f"--stages.warmup.{option}"])
    assert "\n" not in str(error.value)

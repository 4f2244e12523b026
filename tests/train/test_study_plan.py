"""Studies as data: what they turn into, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from train.study.plan import STUDIES, Plan, read_study

STUDY = {
    "data": {"directory": "data/small", "prepare": ["apa_mini"]},
    "pretrain": {"directory": "data/captions", "prepare": ["apa_mini", "--captions"]},
    "recipe": str(ROOT / "tests/support/tiny.yaml"),
    "options": {"stages.warmup.epochs": 3},
    "seeds": [4, 5],
    "variants": {"full": {}, "probe": {"model.architecture": "clip_linear_probe", "stages.warmup.epochs": 7}},
}


def plan(folder: Path, precision: str = "fp32", output: str = "", **changes: object) -> Plan:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes))
    return Plan(*read_study(str(path)), folder / output, precision)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_resolves(path: Path, tmp_path: Path):
    name, study = read_study(path.stem)
    runs = Plan(name, study, tmp_path, "fp32").runs()
    networks = [run for run in runs if not run.rival]
    rivals = [options for options in study.variants.values() if "rival" in options]
    assert len(networks) == len(study.seeds) * (len(study.variants) - len(rivals)) and len(study.seeds) >= 3
    assert len(runs) - len(networks) == len(rivals)
    assert len({run.directory for run in runs}) == len(runs)
    # What the others are compared with.
    assert next(iter(study.variants)) == ("robust" if study.recipe.stem == "robust" else "full")
    models = [run.resolved().model for run in networks]
    assert all(model.pretrained or model.sees_beside_towers for model in models)  # warmup freezes the towers


def test_a_variants_options_win_over_the_studys(tmp_path: Path):
    full, probe, *later = plan(tmp_path, "bf16").runs()
    assert [run.name for run in (full, probe, *later)] == [
        "small/full/seed4",
        "small/probe/seed4",
        "small/full/seed5",
        "small/probe/seed5",
    ]
    assert full.stages == ("warmup", "end_to_end", "tuning") and probe.stages == ("warmup",)
    recipes = full.resolved(), probe.resolved()
    assert [recipe.stages.warmup.epochs for recipe in recipes] == [3, 7]
    assert all(recipe.precision == "bf16" and recipe.seed == 4 for recipe in recipes)
    assert all(recipe.model.pretrained == str(tmp_path / "small/towers/clip.safetensors") for recipe in recipes)
    assert probe.directory == tmp_path / "small/probe/seed4"


def test_the_towers_are_trained_by_contrastive_alone(tmp_path: Path):
    run = plan(tmp_path).pretraining
    assert run and run.stages == ("contrastive",) and run.resolved().model.pretrained is None
    assert run.data == Path("data/captions") and run.directory == tmp_path / "small/towers"
    without = plan(tmp_path, pretrain=None)
    assert without.pretraining is None and {run.towers for run in without.runs()} == {None}


def test_a_rival_is_run_once_and_needs_neither_recipe_nor_towers(tmp_path: Path):
    small = plan(tmp_path, variants={"full": {}, "words": {"rival": "tfidf"}})
    full, words, later = small.runs()
    assert [run.name for run in (full, words, later)] == ["small/full/seed4", "small/words/seed4", "small/full/seed5"]
    assert (words.rival, words.options, words.stages, words.towers) == ("tfidf", (), (), None)
    assert words.data == Path("data/small") and full.rival is None
    stamp = words.stamp("d", None)
    assert stamp == small.runs(["words"])[0].stamp("d", None) != words.stamp("e", None)
    other = plan(tmp_path, options={}, variants={"full": {}, "words": {"rival": "image_features"}}).runs(["words"])
    assert other[0].stamp("d", None) != stamp


def test_the_stamp_changes_with_what_the_result_depends_on(tmp_path: Path):
    def stamps(data: str = "d", towers: str | None = "t", output: str = "", **changes: object):
        return [run.stamp(data, towers) for run in plan(tmp_path, output=output, **changes).runs()]

    first = stamps()
    assert len(set(first)) == 4
    assert stamps(output="elsewhere") == first  # the place of the weights means nothing
    assert not set(first) & set(stamps(data="e")) and not set(first) & set(stamps(towers="u"))
    epochs = stamps(options={"stages.warmup.epochs": 2})
    assert [old == new for old, new in zip(first, epochs, strict=True)] == [False, True, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "small.yaml: sedes: Extra inputs are not permitted"),
        ({"variants": {}}, "small.yaml: variants: Dictionary should have at least 1 item"),
        (
            {"variants": {"words": {"rival": "gzip"}}},
            "words: {'rival': 'gzip'}: a rival is one of tfidf, ",
        ),
        ({"variants": {"words": {"rival": "tfidf", "seed": 1}}}, "image_features, and takes no options"),
        ({"seeds": []}, "small.yaml: seeds: List should have at least 1 item"),
        ({"variants": {"full": {"model.clip_name": "x"}}}, "model.clip_name: Extra inputs are not permitted"),
    ],
)
def test_faulty_studies_are_refused_in_one_line(changes: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        plan(tmp_path, **changes).runs()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_chooses_variants(tmp_path: Path):
    small = plan(tmp_path)
    assert [run.name for run in small.runs(["probe", "other"])] == ["small/probe/seed4", "small/probe/seed5"]
    with pytest.raises(ValueError, match="--variants mmbt other: study small has full, probe"):
        small.runs(["mmbt", "other"])


def test_an_unknown_study_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"study nothing: no file .*nothing.yaml; there are apa_mini"):
        read_study("nothing")

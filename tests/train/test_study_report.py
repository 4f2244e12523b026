"""Results of runs to numbers, tables and plots: means and errors by hand, and what is said of broken files."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.study import report
from train.study.plots import confusion, mean_curve, text_shares
from train.study.results import RunResult, StageResult, Summary, aggregate, read_results

FULL = {0: 0.90, 1: 0.94, 2: 0.95}
PLAIN = {0: 0.86, 1: 0.88, 3: 0.80}


def metrics(value: float) -> dict[str, float | None]:
    return {"products": 4, "accuracy": value, "micro_f1": value, "macro_f1": None, "recall_at_90_precision": value / 2}


def result(variant: str, seed: int, value: float) -> dict[str, Any]:
    group = {"products": 3, "accuracy": value, "recall_at_90_precision": None}
    curve = [
        {
            "epoch": n + 1,
            "products_seen": 10 * (n + 1),
            "loss": 1.0,
            "color/recall_at_90_precision": value - 0.1 / (n + 1),
        }
        for n in range(2)
    ]
    stage = {"epoch": 2, "validation_loss": 0.5, "minutes": 3.0 + seed, "curve": curve}
    irrelevant = {
        "products": 4,
        "left_out": 1,
        **dict.fromkeys(("accuracy", "recall_at_90_precision", "micro_f1", "text_share"), value - 0.2),
    }
    return {
        "data_set": "toys",
        "variant": variant,
        "seed": seed,
        "stamp": "not read",
        "commit": "abc1234",
        "minutes": 10.0 + seed,
        "hardware": {"cpu": "Xeon", "cpu_features": ["avx2"], "cores": 2},
        "versions": {"torch": "2.14"},
        "parameters": 1_900_000,
        "stages": {
            "warmup": stage,
            "end_to_end": stage | {"test": {"color": metrics(value - 0.01 * seed)}},
            "tuning": stage | {"test": {"color": metrics(value)}},
        },
        "test": {"color": metrics(value) | {"text_share": 0.4}},
        "irrelevant": {"titles_blank": {"color": irrelevant | {"untouched": metrics(value) | {"text_share": value}}}},
        "named": {
            "color": {
                "named": group | {"text_share": 0.6, "histogram": [0, 1, 2]},
                "not_named": group | {"text_share": 0.1 * seed, "histogram": [3, 0, 0]},
            }
        },
        "confusion": {"color": {"labels": ["red", "blue"], "counts": [[2, 1], [0, seed]]}},
    }


def write(study: Path, content: dict[str, Any]) -> Path:
    directory = study / content["data_set"] / content["variant"] / f"seed{content['seed']}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").write_text(json.dumps(content))
    return directory / "result.json"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed, value in FULL.items():
        write(tmp_path / "study", result("full", seed, value))
    for seed, value in PLAIN.items():
        write(tmp_path / "study", result("no_mwa", seed, value))
    return tmp_path / "study"


def test_mean_and_standard_error_by_hand():
    # mean 0.93; squares of the distances 0.0009 + 0.0001 + 0.0004, over 2, over 3, root.
    values = Summary({0: 0.90, 1: 0.94, 2: 0.95, 3: None})
    assert values.mean == pytest.approx(0.93) and list(values.values) == [0, 1, 2]
    assert values.standard_error == pytest.approx((0.0014 / 2 / 3) ** 0.5)
    assert Summary({0: 0.5}).standard_error is None
    assert vars(Summary({0: None})) == {"values": {}, "mean": None, "standard_error": None}


def test_numbers_as_people_read_them():
    assert Summary({0: 0.90, 1: 0.94, 2: 0.95}).text() == "0.930 ± 0.015"
    assert Summary({0: -0.0001}).text(signed=True) == "+0.000" and Summary({0: 0.5}).text() == "0.500"
    assert Summary({0: -0.0001}).text() == "0.000" and Summary({}).text() == "n/a"


def test_variants_by_hand(study: Path):
    variants = aggregate(read_results(study))["toys"]
    full, plain = variants["full"], variants["no_mwa"]
    assert list(variants) == ["full", "no_mwa"] and [run.seed for run in plain.runs] == [0, 1, 3]
    assert full["test/color/accuracy"].mean == pytest.approx(0.93)
    assert full["test/color/macro_f1"].mean is None and full["test/color/no_metric"].mean is None
    assert full["minutes"].mean == pytest.approx(11) and full["minutes"].standard_error == pytest.approx(3**-0.5)
    # Pairs are seeds 0 and 1: 0.04 and 0.06.
    drop = plain["drop/color/accuracy"]
    assert list(drop.values) == [0, 1]
    assert drop.mean == pytest.approx(0.05) and drop.standard_error == pytest.approx(0.01)
    assert plain.holds("drop") and not full.holds("drop") and "drop/color/products" not in plain.figures


def test_a_deterministic_run_is_compared_with_every_seed(study: Path):
    write(study, result("tfidf", 0, 0.80) | {"deterministic": True, "stages": {}})
    words = aggregate(read_results(study))["toys"]["tfidf"]
    assert words.title == "TF-IDF" and words["test/color/accuracy"].standard_error is None
    drop = words["drop/color/accuracy"]  # 0.90, 0.94 and 0.95 less 0.80
    assert drop.values == pytest.approx({0: 0.10, 1: 0.14, 2: 0.15})
    report.report(study)
    assert "| color | TF-IDF | 3 | +0.065 ± 0.008 | +0.130 ± 0.015 |" in (study / "results.md").read_text()


def test_tuning_naming_and_perturbations_are_paired_by_seed(study: Path):
    full = aggregate(read_results(study))["toys"]["full"]
    gain = full["tuning/color/accuracy"]  # 0, 0.01, 0.02
    assert gain.mean == pytest.approx(0.01) and gain.standard_error == pytest.approx(0.01 / 3**0.5)
    assert full["named/color/difference/text_share"].mean == pytest.approx(0.5)  # 0.6 less 0, 0.1, 0.2
    drop = {metric: full[f"irrelevant/titles_blank/color/drop/{metric}"].mean for metric in metrics(0)}
    assert drop["accuracy"] == pytest.approx(0.2) and drop["recall_at_90_precision"] == pytest.approx(0.93 / 2 - 0.73)
    assert full["irrelevant/titles_blank/color/change/text_share"].mean == pytest.approx(-0.2)


def test_histograms_and_confusion_are_of_all_seeds(study: Path):
    runs = aggregate(read_results(study))["toys"]["full"].runs
    histograms = text_shares(runs, ["color"]).axes[0].get_legend_handles_labels()[0]
    shares = {patch.get_label(): patch.get_data().values for patch in histograms}
    np.testing.assert_allclose(shares["title names it: mean 0.60"], np.array([0, 3, 6]) / 9)
    np.testing.assert_allclose(shares["title does not: mean 0.10"], np.array([9, 0, 0]) / 9)
    (image,) = confusion("color", [run.confusion["color"] for run in runs]).axes[0].get_images()
    np.testing.assert_allclose(image.get_array(), [[6 / 9, 3 / 9], [0, 1]])  # of [[6, 3], [0, 3]]


def test_files_hold_tables_numbers_and_pictures(study: Path, capsys: pytest.CaptureFixture[str]):
    assert report.main([str(study)]) == 0
    assert "results.md" in capsys.readouterr().out
    text = (study / "results.md").read_text()
    assert "| color | full | 3 | 0.465 ± 0.008 | 0.930 ± 0.015 | 0.930 ± 0.015 | n/a | n/a | n/a |" in text
    assert "| color | without MWA | 2 | +0.025 ± 0.005 | +0.050 ± 0.010 |" in text
    assert "| titles blank | -0.200 ± 0.000 | -0.200 ± 0.000 |" in text  # λ falls
    assert "| full | 1,900,000 | 11.0 ± 0.6 | 4.0 ± 0.6 (2) |" in text
    assert "6 runs. Commit abc1234; cpu Xeon, cpu_features avx2, cores 2; torch 2.14." in text
    written = json.loads((study / "results.json").read_text())["toys"]["full"]
    assert [run["seed"] for run in written["runs"]] == [0, 1, 2]
    assert written["figures"]["test/color/accuracy"]["values"] == {str(seed): value for seed, value in FULL.items()}
    assert written["figures"]["test/color/accuracy"]["mean"] == pytest.approx(0.93)
    assert written["runs"][0]["stages"]["warmup"]["curve"][0]["color/recall_at_90_precision"] == pytest.approx(0.8)
    names = {"toys-recall", "toys-curves", "toys-text_share", "toys-confusion-color"}
    assert {path.stem for path in (study / "plots").iterdir()} == names
    for name in names:
        assert f"![{name}](plots/{name}.png)" in text
        with Image.open(study / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 300 and len(picture.convert("L").getcolors()) > 20


def read_strictly(path: Path) -> Any:
    """JSON as others than Python read it, which know no NaN."""
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{path}: {word}"))


def test_the_summary_is_what_the_runs_say(study: Path):
    report.report(study)
    written = read_strictly(study / "summary.json")
    assert list(written) == ["toys"] and list(written["toys"]) == ["full", "no_mwa"]
    for variant, tasks in written["toys"].items():
        runs = [json.loads(path.read_text()) for path in (study / "toys" / variant).glob("*/result.json")]
        stressed = [run["irrelevant"]["titles_blank"]["color"] for run in runs]
        recalls = [part["recall_at_90_precision"] for part in stressed]
        expected = {
            **{name: [run["test"]["color"][name] for run in runs] for name in ("accuracy", "micro_f1")},
            "recall_at_90_precision": [run["test"]["color"]["recall_at_90_precision"] for run in runs],
            "stress:titles_blank": recalls,
            "stress_drop:titles_blank": [
                part["untouched"]["recall_at_90_precision"] - recall
                for part, recall in zip(stressed, recalls, strict=True)
            ],
        }
        assert list(tasks) == ["color"] and tasks["color"].keys() == expected.keys()  # no macro F1: nobody knows it
        for name, values in expected.items():
            error = float(np.std(values, ddof=1) / np.sqrt(3))
            assert tasks["color"][name] == pytest.approx([statistics.mean(values), error, 3])


def test_what_mismatch_tells_is_in_tables_and_summary(study: Path):
    told = {"products": 4, "auroc": 0.9, "told": 0.5, "false_alarms": 0.01}
    for seed in (0, 1):
        mismatch = {"titles_shuffled": told | {"auroc": 0.9 - 0.1 * seed}}
        write(study, result("robust", seed, 0.9) | {"mismatch": mismatch})
    report.report(study)
    assert (
        "| robust | titles shuffled | 0.850 ± 0.050 | 0.500 ± 0.000 | 0.010 ± 0.000 |"
        in (study / "results.md").read_text()
    )
    written = read_strictly(study / "summary.json")["toys"]
    assert list(written["robust"]) == ["color", "mismatch"] and list(written["full"]) == ["color"]
    assert written["robust"]["mismatch"]["auroc:titles_shuffled"] == pytest.approx([0.85, 0.05, 2])


def test_results_are_kept_beside_those_of_other_machines(study: Path, tmp_path: Path):
    kept = tmp_path / "results"
    other = kept / "toys/full/seed7/result.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(result("full", 7, 0.5)))
    assert report.main([str(study), "--keep", str(kept)]) == 0
    runs = {str(path.relative_to(study)) for path in study.glob("*/*/seed*/result.json")}
    assert {str(path.relative_to(kept)) for path in kept.rglob("*.json")} == {
        *runs,
        str(other.relative_to(kept)),
        "summary.json",
    }
    accuracy = read_strictly(kept / "summary.json")["toys"]["full"]["color"]["accuracy"]
    assert accuracy[0] == pytest.approx(statistics.fmean([*FULL.values(), 0.5])) and accuracy[2] == len(FULL) + 1


def test_the_kept_results_of_this_project_say_what_their_summary_says():
    kept = Path(__file__).parents[2] / "results"
    assert (kept / "summary.json").read_bytes() == report.summary_json(aggregate(read_results(kept)))


def test_the_summary_of_one_seed_and_of_a_run_that_diverged(tmp_path: Path):
    write(tmp_path, result("full", 0, 0.9))
    write(tmp_path, result("no_mwa", 0, 0.5))
    write(tmp_path, result("no_mwa", 1, float("nan")))
    report.report(tmp_path)
    written = read_strictly(tmp_path / "summary.json")["toys"]
    assert written["full"]["color"]["accuracy"] == [0.9, None, 1]
    assert written["no_mwa"]["color"]["accuracy"] == [None, None, 2]


def test_perturbations_that_a_result_lacks_are_empty(study: Path):
    for seed in (1, 2):  # and not in seed 0, nor in the other variant
        content = result("full", seed, FULL[seed])
        cut = content["irrelevant"]["titles_blank"]["color"] | {"recall_at_90_precision": 0.4, "text_share": None}
        content["irrelevant"] = {"titles_cut": {"color": cut}, **content["irrelevant"]}
        write(study, content)
    assert report.main([str(study)]) == 0
    rows = [line for line in (study / "results.md").read_text().splitlines() if line.startswith("| titles cut")]
    drops = [FULL[seed] / 2 - 0.4 for seed in (1, 2)]
    error = abs(drops[0] - drops[1]) / 2
    assert rows[0] == f"| titles cut | +{statistics.mean(drops):.3f} ± {error:.3f} |  |"
    assert rows[2] == "| titles cut | n/a |  |"  # measured, but λ is not known
    summary = read_strictly(study / "summary.json")["toys"]
    assert summary["full"]["color"]["stress:titles_cut"] == pytest.approx([0.4, 0, 2])
    assert not any(name.endswith(":titles_cut") for name in summary["no_mwa"]["color"])


def test_who_measured_again_is_told(study: Path):
    again = {"commit": "def5678", "hardware": "another", "versions": {"torch": "2.15"}}
    write(study, result("full", 1, FULL[1]) | {"measured_again": again})
    report.report(study)
    assert "torch 2.14. Measured again at commit def5678." in (study / "results.md").read_text()


def test_one_seed_has_no_error(tmp_path: Path):
    write(tmp_path, result("full", 0, 0.9))
    report.report(tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "| color | full | 1 | 0.450 | 0.900 |" in text and "±" not in text.split("## toys")[1]
    assert "Difference to full" not in text


def test_without_the_full_network_there_is_no_difference_to_it(tmp_path: Path):
    linear = result("clip_linear_probe", 0, 0.7)
    linear["stages"] = {"warmup": linear["stages"]["warmup"]}
    write(tmp_path, linear)
    report.report(tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "CLIP linear probe" in text and "Difference to" not in text and "Tuning stage" not in text
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"toys-recall", "toys-curves"}


def test_an_unfinished_run_is_named_and_does_not_count(study: Path, capsys: pytest.CaptureFixture[str]):
    (study / "toys/no_mwa/seed3/result.json").unlink()
    (study / "toys/towers/contrastive").mkdir(parents=True)
    assert [run.seed for run in aggregate(read_results(study))["toys"]["no_mwa"].runs] == [0, 1]
    assert capsys.readouterr().err.splitlines() == [f"not counted, as it has not finished: {study}/toys/no_mwa/seed3"]


def broken(study: Path, change) -> Path:
    path = study / "toys/full/seed1/result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("test"), "seed1/result.json: test: Field required"),
        (lambda r: r["named"]["color"].pop("named"), "named.color.named: Field required"),
        (lambda r: r["stages"]["warmup"].update(minutes="long"), "stages.warmup.minutes: Input should be a valid"),
        (lambda r: r["stages"]["warmup"]["curve"][0].pop("products_seen"), "products_seen: Field required"),
        (lambda r: r.update(seed=7), "is the result of toys/full/seed7; put it back, or remove it"),
        (lambda r: r["confusion"]["color"].update(labels=["red", "green"]), "other tasks or labels than full/seed0"),
    ],
)
def test_a_broken_result_is_one_line(study: Path, change, message: str, capsys: pytest.CaptureFixture[str]):
    broken(study, change)
    assert report.main([str(study)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not {"results.json", "summary.json", "results.md", "plots"} & {path.name for path in study.iterdir()}


def test_a_cut_file_and_an_empty_study_are_one_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = study / "toys/full/seed1/result.json"
    path.write_text(path.read_text()[:100])
    for directory, message in ((study, "seed1/result.json: Invalid JSON"), (tmp_path / "none", "no result (DATA SET/")):
        assert report.main([str(directory)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error


def test_curves_go_on_from_stage_to_stage():
    def run(**curves: list[tuple[int, float | None]]) -> RunResult:
        stages = {
            stage: StageResult(
                epoch=1,
                validation_loss=1.0,
                minutes=1.0,
                curve=[{"products_seen": seen, "color/accuracy": value} for seen, value in points],
            )
            for stage, points in curves.items()
        }
        return RunResult.model_validate(result("full", 0, 0.9)).model_copy(update={"stages": stages})

    first = run(contrastive=[(4000, None)], warmup=[(1000, 0.2), (2000, 0.4)], tuning=[(500, 0.5), (1000, 0.9)])
    second = run(contrastive=[(4000, None)], warmup=[(1000, 0.4), (2000, None)], tuning=[(500, 0.7)])
    seen, height, ends = mean_curve([first, second], "color/accuracy")
    assert seen == [5.0, 6.0, 6.5] and height == pytest.approx([0.3, 0.4, 0.6])
    assert ends == {"contrastive": 4.0, "warmup": 6.0, "tuning": 7.0}

"""What is cached of a network answers as titles and images do; a wrong cache is refused, a killed one goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cached_networks import FORMS, PACE, form_of
from data_set_files import reseal
from tiny import options_of, run_stage, tiny_bundle_config

from cma_clip.files import file_sha256
from model.bundle import save_bundle
from model.cma_clip import CMAClip
from train.cache import make, parts
from train.cache.__main__ import main
from train.cache.layout import CacheInfo
from train.cache.make import make_cache
from train.cache.use import as_cached
from train.data import Batch, open_splits
from train.losses import exchange_modalities
from train.main import main as train
from train.wrong_titles import judged_by

KINDS = ("tokens", "vectors")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def bundle(form: str, data: Path, tmp_path: Path) -> Path:
    network, model, tasks = form_of(form, data)
    save_bundle(tmp_path / "bundle", tiny_bundle_config(model, tasks), network)
    return tmp_path / "bundle"


def rounded(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float()


def answers_of_rounded(network: CMAClip, kind: str, batch: Batch, present: torch.Tensor) -> torch.Tensor:
    """What a network says whose towers, or the values before its heads, are rounded as they are stored."""
    tokens = network.towers(batch.input_ids_BT, batch.pixels_BHWC)
    convolved = None
    if network.convolutions is not None:
        convolved = network.convolutions(batch.pixels_BHWC)
    if kind == "tokens":
        tokens = tokens._replace(text_BTD=rounded(tokens.text_BTD), image_BPD=rounded(tokens.image_BPD))
    vectors = network.mixed(tokens, convolved, present)
    if kind == "vectors":
        vectors = vectors._replace(text_BD=rounded(vectors.text_BD), image_BD=rounded(vectors.image_BD))
    beside = network.wide and network.wide(batch.input_ids_BT, tokens.text_mask_BT, batch.pixels_BHWC, present)
    return network.of_vectors(vectors, beside, present)[0].logits_BC


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_answers_as_titles_and_images_do(form: str, bundle: Path, data: Path, tmp_path: Path, kind: str):
    network, _, tasks = form_of(form, data)
    directory = make_cache(bundle, data, kind, tmp_path / "cache", PACE)
    live = open_splits(data, tiny_bundle_config().preprocess, 4, tasks)[0]
    cached = as_cached(directory, network, "train", live, judges=False)
    assert len(cached) == len(live)
    places = np.random.default_rng(0).permutation(len(live))[:23]  # across row groups, in any order
    ours, theirs = cached.batch(places, places), live.collate([live[place] for place in places])
    assert ours.ids == theirs.ids and torch.equal(ours.targets_BC, theirs.targets_BC)
    assert torch.equal(ours.input_ids_BT, theirs.input_ids_BT) and torch.equal(ours.present_B2, theirs.present_B2)
    answers: list[torch.Tensor] = []
    for hidden in (None, 0, 1):  # as modality_dropout hides a side
        present = theirs.present_B2.clone()
        if hidden is not None:
            present[present.all(dim=1), hidden] = False
        found = ours.classified_by(network, present)[0].logits_BC
        # Statistics and small images lie in 16 bits too.
        torch.testing.assert_close(found, answers_of_rounded(network, kind, theirs, present), atol=2e-3, rtol=1e-3)
        answers.append(found)
    assert all(not torch.allclose(answers[0], other, atol=1e-2) for other in answers[1:])


@torch.no_grad()
def test_titles_and_images_of_tokens_can_be_exchanged(data: Path, tmp_path: Path):
    network, model, tasks = form_of("robust", data)
    save_bundle(tmp_path / "bundle", tiny_bundle_config(model, tasks), network)
    directory = make_cache(tmp_path / "bundle", data, "tokens", None, PACE)
    assert directory.parent == data.with_name("data.cache")
    shutil.move(directory, tmp_path / "cache")
    train, validation = open_splits(data, tiny_bundle_config().preprocess, 4, tasks)
    places = np.arange(16)
    batches = (
        as_cached(tmp_path / "cache", network, "train", train, False).batch(places, places),
        train.collate([train[place] for place in places]),
    )
    told = []
    for batch in batches:
        torch.manual_seed(3)
        batch, exchanged = exchange_modalities(batch, 0.8)
        assert exchanged.sum() > 4
        told.append((exchanged, batch.classified_by(network, batch.present_B2)[0].logits_BC))
    assert torch.equal(told[0][0], told[1][0])
    torch.testing.assert_close(told[0][1], told[1][1], atol=0.02, rtol=0.02)

    judged, cached = judged_by(validation), as_cached(tmp_path / "cache", network, "validation", validation, True)
    assert len(judged) == len(cached)
    order = [list(range(start, min(start + 16, len(judged)))) for start in range(0, len(judged), 16)]
    for ours, theirs in zip(cached.batches(order, 0), judged.batches(order, 0), strict=True):
        assert torch.equal(ours.targets_BC, theirs.targets_BC) and torch.equal(ours.readable_B, theirs.readable_B)
        assert torch.equal(ours.input_ids_BT, theirs.input_ids_BT) and ours.problems == theirs.problems


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part for each row group."""
    monkeypatch.setattr(parts, "part_rows", lambda total: 1)


def files_of(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): file_sha256(path) for path in directory.rglob("*") if path.is_file()}


def in_many_groups(data: Path, target: Path) -> Path:
    """The data set in row groups of 20 products."""
    shutil.copytree(data, target)
    for path in target.glob("split=*/*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=20, compression="none")
    reseal(target)
    return target


def test_a_stopped_one_goes_on_to_the_same_bytes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    small_parts(monkeypatch)
    network, model, tasks = form_of("paper", data)
    save_bundle(tmp_path / "bundle", tiny_bundle_config(model, tasks), network)
    data = in_many_groups(data, tmp_path / "data")
    whole = files_of(make_cache(tmp_path / "bundle", data, "vectors", tmp_path / "whole", PACE))
    assert sum(name.endswith(".arrow") for name in whole) == 12
    made, writes = [], parts._write

    def stops_at(number: int):
        def write(making: parts.Making, part: parts.Part, path: Path) -> None:
            if len(made) == number:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"half")
                raise KeyboardInterrupt
            made.append(part.file)
            writes(making, part, path)

        return write

    for number in (3, 7):
        monkeypatch.setattr(parts, "_write", stops_at(number))
        with pytest.raises(KeyboardInterrupt):
            make_cache(tmp_path / "bundle", data, "vectors", tmp_path / "cache", PACE)
    damaged = tmp_path / "cache.partial/data" / made[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    monkeypatch.setattr(parts, "_write", stops_at(-1))
    assert files_of(make_cache(tmp_path / "bundle", data, "vectors", tmp_path / "cache", PACE)) == whole
    assert sorted(made) == sorted([name for name in whole if name.endswith(".arrow")] + made[1:2])  # none but one twice
    capsys.readouterr()
    make_cache(tmp_path / "bundle", data, "vectors", tmp_path / "cache", PACE)
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}: already there\n"


@pytest.fixture(scope="module")
def copied(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, with caches of its own beside it."""
    folder = tmp_path_factory.mktemp("cached") / "data"
    shutil.copytree(data, folder)
    return folder


@pytest.fixture(scope="module")
def cache(run: Path, copied: Path) -> Path:
    return make_cache(run / "end_to_end/best", copied, "vectors", None, PACE)


def losses_of(run: Path, stage: str) -> list[float]:
    lines = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(("stage", "before"), [("warmup", "contrastive"), ("tuning", "end_to_end")])
def test_a_stage_reads_it_and_loses_nothing(
    stage: str, before: str, run: Path, copied: Path, cache: Path, tmp_path: Path
):
    """On two ranks and found beside the data set, against the same stage that saw titles and images."""
    if stage == "warmup":
        cache = make_cache(run / before / "best", copied, "tokens", None, PACE)
    shutil.copytree(run / before, tmp_path / "run" / before)
    result = run_stage(stage, copied, tmp_path / "run")
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"stage {stage} reads {cache} in the place of titles and images" in result.stdout
    ours, theirs = losses_of(tmp_path / "run", stage), losses_of(run, stage)
    assert len(ours) == len(theirs) > 3
    np.testing.assert_allclose(ours, theirs, rtol=1e-2)


def test_a_wrong_one_is_refused(run: Path, cache: Path, data: Path, tmp_path: Path, capsys, monkeypatch):
    shutil.copytree(cache, tmp_path / "cache")
    shutil.copytree(run, tmp_path / "run")
    wanted = CacheInfo.read(cache)
    for stage, said in {
        "warmup": f"{cache}: a cache of other kind and weights; make one with cma-clip cache",
        "end_to_end": f"--cache {cache}: stage end_to_end trains the towers; a cache is for warmup and tuning",
    }.items():
        assert train([*options_of(stage, data, tmp_path / "run"), "--cache", str(cache), "--restart"]) == 2
        assert capsys.readouterr().err == f"error: {said}\n"
    with pytest.raises(ValueError, match="a cache of other products; make one"):
        CacheInfo.read(cache).check(wanted.model_copy(update={"data_hash": "0"}), cache)
    (tmp_path / "cache" / wanted.splits["train"][0].file).write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000.arrow: missing or not \d+ bytes; make the cache again"):
        CacheInfo.read(tmp_path / "cache").check(wanted, tmp_path / "cache")
    end_to_end = str(run / "end_to_end/best")
    assert main([end_to_end, "--data", str(data), "--output", str(tmp_path / "cache")]) == 2
    assert "make the cache again" in capsys.readouterr().err
    assert main([end_to_end, "--data", str(data), "--for", "warmup", "--output", str(cache)]) == 2
    assert (
        capsys.readouterr().err == f"error: {cache}: a cache of other kind and weights; make one with cma-clip cache\n"
    )
    assert main(["tests/support/tiny.yaml", "--data", str(data)]) == 2
    assert "model.pretrained is not set, so its towers are random; give a bundle instead" in capsys.readouterr().err
    assert main([end_to_end, "--data", str(data), "--batch_size", "0"]) == 2
    assert "--batch_size and --processes are 1 or more" in capsys.readouterr().err
    monkeypatch.setattr(make.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert main([end_to_end, "--data", str(data), "--output", str(tmp_path / "new")]) == 2
    assert "has 0.0 MB free; name another --output" in capsys.readouterr().err
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.partial").exists()

"""The fuzz of `make soak`, a few hundred mutations of it, and that it goes on where it was stopped."""

from __future__ import annotations

import json

from bench import image_fuzz


def test_any_mutation_is_decoded_or_refused_and_a_second_run_goes_on(tmp_path):
    options = ["--output", str(tmp_path)]
    assert image_fuzz.main(["--mutations", "500", *options]) == 0
    first = json.loads((tmp_path / "state.json").read_text())
    assert sum(first.values()) == 500 and first["decoded"] > 50 and first["IMG_TRUNCATED"] > 20
    assert image_fuzz.main(["--mutations", "600", *options]) == 0
    second = json.loads((tmp_path / "state.json").read_text())
    assert sum(second.values()) == 600 and second["decoded"] >= first["decoded"]


def test_an_exception_without_a_code_fails_and_its_bytes_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(image_fuzz, "image_to_pixels", lambda data, config: 1 / 0)
    assert image_fuzz.main(["--mutations", "3", "--output", str(tmp_path)]) == 1
    assert len(list(tmp_path.glob("*.bin"))) == 3

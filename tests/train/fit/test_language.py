"""Titles that CLIP's weights cannot read are named before anything is trained on top of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from shop import shop_rows, write_shop

from train.fit import plan as plans
from train.fit.__main__ import main
from train.fit.language import note_for_clips_weights, tokens_per_word
from train.prepare.__main__ import main as prepare

TITLES = {
    "English": [
        "Red cotton summer dress with belt",
        "Men&#39;s waterproof winter jacket, black",
        "Long sleeve maxi 3.5",
    ],
    "German": ["Rotes Sommerkleid aus Baumwolle mit Gürtel", "Winterjacke für Herren, wasserdicht, schwarz"],
    "French": ["Robe d'été rouge en coton avec ceinture", "Blouson d'hiver imperméable noir pour homme"],
    "Spanish": ["Vestido de verano rojo de algodón con cinturón", "Chaqueta de invierno impermeable, negra"],
    "Russian": ["Красное летнее платье из хлопка"],
    "Chinese": ["红色夏季连衣裙"],
}


@pytest.mark.parametrize("language", TITLES)
def test_a_language_is_told_by_the_tokens_of_its_words(language):
    note = note_for_clips_weights(TITLES[language])
    assert (note is None) == (language == "English")
    assert note is None or (note.startswith("note: ") and "\n" not in note)


def test_where_there_is_no_word_nothing_is_said():
    assert tokens_per_word(["", "4711 / 08-15", "x" * 200_000]) is None and note_for_clips_weights([]) is None


@pytest.mark.parametrize("is_prepared", [False, True])
def test_the_plan_says_so_where_clips_weights_are_to_be_used(tmp_path, capsys, monkeypatch, is_prepared):
    monkeypatch.setattr(plans, "seconds_per_product", lambda *_: 0.02)
    rows = shop_rows(tmp_path, 120)
    for row in rows:
        row["name"] = f"Baumwollkleid {row['name']}"
    table: Path = write_shop(tmp_path / "shop.csv", rows)
    if is_prepared:
        columns = ["--image-column", "photo", "--title-column", "name", "--task", "tags:multi_label"]
        assert prepare(["catalog", "--csv", str(table), *columns, "--output", str(tmp_path / "data")]) == 0
        table = tmp_path / "data"
    words = [str(table), "--output", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 0 and "CLIP's tokens" not in capsys.readouterr().out
    assert main([*words, "--model.pretrained=openai"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("note: a word of the titles takes ")

"""Tables that hold what nobody expects, through client.predict: the row is a reject, the others are answered."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from scripted_server import ScriptedServer, text

from client.predict import __main__ as predict
from client.predict import catalogue


def run(
    table: Path, *more: str, server: type[ScriptedServer] = ScriptedServer
) -> tuple[int, dict[str, str], dict[str, str]]:
    """Exit code, id -> title of the answers, id -> code and message of the rejects."""
    output = table.with_name("answers.csv")
    columns = ["--id-column", "id", "--title-column", "title", "--image-column", "image"]
    with server() as asked:
        code = predict.main(["--csv", str(table), *columns, "--output", str(output), "--url", asked.url, *more])
    if code:
        return code, {}, {}
    with output.open(newline="") as answers, Path(f"{output}.rejects.csv").open(newline="") as rejects:
        answered = {row["id"]: row["echo_answer"] for row in csv.DictReader(answers)}
        return code, answered, {row["id"]: f"{row['code']}: {row['message']}" for row in csv.DictReader(rejects)}


def write(folder: Path, rows: str) -> Path:
    (folder / "a.jpg").write_bytes(b"picture")
    (folder / "table.csv").write_text(f"id,title,image\n{rows}")
    return folder / "table.csv"


def test_a_stray_quote_does_not_move_an_image_to_another_product(tmp_path):
    code, answered, rejects = run(write(tmp_path, '1,Red,a.jpg\n2,"5 inch,a.jpg\n3,"Green",a.jpg\n4,Blue,a.jpg\n'))
    assert code == 0 and answered == {"1": "Red", "3": "Green", "4": "Blue"}
    assert list(rejects) == ["2"] and rejects["2"].startswith('ROW_UNUSABLE: line 3: a quote (") opens a cell')


def test_image_cells_are_regular_files_inside_the_folder(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "pipe")
    with (folder / "large").open("wb") as file:
        file.truncate(64 << 20)
    cells = ["a.jpg", "/dev/zero", "pipe", "large", "../secret", f"{tmp_path}/secret", "link", "a\0.jpg", "empty.jpg"]
    cells += ["https://shop.example/a.jpg", "C:\\a.jpg", f"file://{folder}/a.jpg", "nan"]
    table = write(folder, "".join(f"{cell},Red,{cell}\n" for cell in cells))
    code, answered, rejects = run(table)
    good = ["a.jpg", f"file://{folder}/a.jpg"]
    assert code == 0 and list(answered) == good
    codes = {id: said.split(":")[0] for id, said in rejects.items()}
    assert codes.pop("large") == "IMG_TOO_MANY_BYTES" and codes.pop("empty.jpg") == "IMG_EMPTY"
    assert codes.pop("") == "NO_ID" and set(codes.values()) == {"IMG_UNREADABLE"} and len(codes) == 8
    assert run(table, "--allow-outside")[0] == 2 and "begun" not in capsys.readouterr().err
    code, answered, _ = run(table, "--allow-outside", "--keep-literal-nan", "--overwrite")
    assert list(answered) == ["a.jpg", "../secret", f"{tmp_path}/secret", "link", good[1]]
    assert run(table, "--image-root", str(tmp_path / "none"), "--overwrite")[0] == 2
    assert f"--image-root {tmp_path}/none: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("441"), RuntimeError("two\nlines"), RecursionError()])
def test_an_error_that_nobody_foresaw_is_one_reject_with_an_incident(tmp_path, monkeypatch, caplog, error):
    def read_image(image: object, *_: object) -> bytes:
        if str(image).endswith("b.jpg"):
            raise error
        return b"picture"

    monkeypatch.setattr(catalogue, "read_image", read_image)
    code, answered, rejects = run(write(tmp_path, "".join(f"{n},Red,{'ab'[n == 70]}.jpg\n" for n in range(100))))
    assert code == 0 and len(answered) == 99
    assert rejects["70"].startswith("INTERNAL: incident ") and type(error).__name__ in rejects["70"]
    incident = rejects["70"].split()[2].rstrip(",")
    assert f"incident {incident}, row 71" in caplog.text


@pytest.mark.parametrize(
    "prediction", [b"", b"\xff", b'{"echo": ', b"null", b"[1]", b'{"a": {"label": ""}}', b'{"a": 3}']
)
def test_an_answer_that_is_none_costs_its_own_row(tmp_path, prediction):
    class Garbling(ScriptedServer):
        def answer(self, title: str, image_bytes: int):
            response = super().answer(title, image_bytes)
            if title == "Blue":
                response.raw_output_contents[0] = text(prediction)
            return response

    code, answered, rejects = run(write(tmp_path, "1,Red,\n2,Blue,\n3,Green,\n"), server=Garbling)
    assert code == 0 and answered == {"1": "Red", "3": "Green"}
    assert list(rejects) == ["2"] and rejects["2"].startswith("INTERNAL: ")

"""A catalogue through client.predict: every id once, whatever is killed, against scripted and real servers."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted_server import LABEL_SET, Refuse, ScriptedServer
from server_faults import kill_server
from server_process import ServerProcess, free_ports
from waiting import wait_until

from client.predict import __main__ as predict
from client.predict import run
from dataset.products import neutral

ROOT = Path(__file__).parents[3]


def write_csv(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("sku", "name", "photo"), *rows])
    return path


def options(table: Path, output: Path, url: str, *more: str) -> list[str]:
    kind = "--csv" if table.suffix == ".csv" else "--parquet"
    columns = ["--id-column", "sku", "--title-column", "name", "--image-column", "photo"]
    return [kind, str(table), *columns, "--output", str(output), "--url", url, *more]


def rejects(output: Path) -> list[dict[str, str]]:
    with output.with_name(f"{output.name}.rejects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def left_over(output: Path) -> set[str]:
    return {path.name.removeprefix(output.name) for path in output.parent.iterdir() if path.name != "table.csv"}


@pytest.fixture
def table(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"12345")
    rows = [("a", "red dress", "photos/a.jpg"), ("b", "blue dress", ""), ("c", "", "photos/absent.jpg")]
    rows += [("a", "once more", ""), ("", "no id", ""), ("d", "", ""), ("bad", "cut", "")]
    return write_csv(tmp_path / "table.csv", rows)


def refuse_cut(title: str, times: int) -> None:
    if title == "cut":
        raise Refuse("INVALID_ARGUMENT", "in ensemble 'cma_clip', IMG_TRUNCATED: cut off")


def test_answers_rejects_and_summary(table, tmp_path, capsys):
    output = tmp_path / "out/answers.parquet"
    output.parent.mkdir()
    with ScriptedServer(refuse_cut) as server:
        assert predict.main(options(table, output, server.url)) == 0
        assert server.asked.count("cut") == 1
        assert capsys.readouterr().out.splitlines() == [
            f"{output}: 2 of 7 rows answered, 5 rejected",
            f"{output}.rejects.csv: IMG_UNREADABLE 1, DUPLICATE_ID 1, NO_ID 1, NO_MODALITY 1, IMG_TRUNCATED 1",
        ]
        asked = len(server.asked)
        assert predict.main(options(table, output, server.url)) == 0
        assert len(server.asked) == asked and "already there" in capsys.readouterr().out
    first, second = pq.read_table(output).to_pylist()
    assert first == {
        "id": "a",
        "echo_answer": "red dress",
        "echo_score": 0.5,
        "echo_accepted": True,
        "echo_refused": "",
        "echo_text_share": 0.25,
        "label_set": LABEL_SET,
        "model_version": "1",
    }
    assert (second["id"], second["echo_answer"]) == ("b", "blue dress")
    assert [(row["row"], row["id"], row["code"]) for row in rejects(output)] == [
        ("3", "c", "IMG_UNREADABLE"),
        ("4", "a", "DUPLICATE_ID"),
        ("5", "", "NO_ID"),
        ("6", "d", "NO_MODALITY"),
        ("7", "bad", "IMG_TRUNCATED"),
    ]
    assert rejects(output)[0]["message"] == f"{tmp_path}/photos/absent.jpg: No such file or directory"
    assert rejects(output)[4]["message"] == "cut off"
    summary = json.loads((tmp_path / "out/answers.parquet.json").read_text())
    assert (summary["rows"], summary["answered"], summary["label_set"]) == (7, 2, LABEL_SET)
    assert left_over(output) == {"", ".rejects.csv", ".json"}


def test_parquet_with_picture_bytes_and_no_titles(tmp_path):
    table = tmp_path / "in.parquet"
    pq.write_table(pa.table({"sku": [1, 2], "photo": pa.array([b"123", b"45678"], pa.binary())}), table)
    command = ["--parquet", str(table), "--image-column", "photo", "--id-column", "sku"]
    with ScriptedServer() as server:
        assert predict.main([*command, "--output", str(tmp_path / "a.csv"), "--url", server.url]) == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["1", "2"]


def test_a_split_of_a_prepared_data_set(data, tmp_path, capsys):
    output = tmp_path / "answers.parquet"
    with ScriptedServer() as server:
        command = ["--data", str(data), "--output", str(output), "--url", server.url]
        assert predict.main([*command, "--split", "validation"]) == 0
    asked = pq.read_table(data / "split=validation", columns=["id", "title"])
    answered = pq.read_table(output)
    assert answered["id"].to_pylist() == asked["id"].to_pylist() and len(answered) == 40
    assert answered["echo_answer"].to_pylist() == asked["title"].to_pylist()
    (tmp_path / "empty").mkdir()
    assert predict.main(["--data", str(tmp_path / "empty"), "--output", str(tmp_path / "b.csv")]) == 2
    assert "dataset.json: no such file" in capsys.readouterr().err


def test_another_output_is_not_overwritten_unless_asked(table, tmp_path, capsys):
    output = tmp_path / "answers.csv"
    output.write_text("precious")
    with ScriptedServer() as server:
        assert predict.main(options(table, output, server.url)) == 2
        assert "is there already, from other settings; --overwrite replaces it" in capsys.readouterr().err
        assert output.read_text() == "precious"
        assert predict.main(options(table, output, server.url, "--overwrite")) == 0
        assert output.read_text().startswith("id,echo_answer,")
        table.write_text(table.read_text() + "e,new,\n")
        assert predict.main(options(table, output, server.url)) == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (["--output", "answers.txt"], "expected a name that ends with .parquet or .csv"),
        (["--in-flight", "0"], "--in-flight is 0"),
        (["--retry-for", "-1"], "--retry-for is -1.0"),
    ],
)
def test_a_wrong_command_line_ends_with_2(table, tmp_path, capsys, change, problem):
    with pytest.raises(SystemExit) as caught:
        predict.main(options(table, tmp_path / "a.csv", "127.0.0.1:1") + change)
    assert caught.value.code == 2 and problem in capsys.readouterr().err


def test_a_missing_column_or_file_ends_with_2(table, tmp_path, capsys):
    command = options(table, tmp_path / "a.csv", "127.0.0.1:1", "--title-column", "titel")
    assert predict.main(command) == 2
    assert capsys.readouterr().err == f"error: {table}: no column 'titel'; it has 'sku', 'name', 'photo'\n"
    assert predict.main(options(tmp_path / "absent.csv", tmp_path / "a.csv", "127.0.0.1:1")) == 2
    assert not (tmp_path / "a.csv.partial").exists()


def test_T4_invalid_utf8_is_rejected_or_replaced_with_a_warning(tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_bytes(b"sku,name,photo\na,caf\xe9,\nb,plain,\n")
    output = tmp_path / "answers.parquet"
    with ScriptedServer() as server:
        assert predict.main(options(table, output, server.url)) == 0
        assert [(row["row"], row["code"]) for row in rejects(output)] == [("1", "TXT_INVALID_UTF8")]
        capsys.readouterr()
        assert predict.main(options(table, output, server.url, "--replace-invalid-utf8", "--overwrite")) == 0
        warning = "warning: bytes that are no UTF-8 were replaced in 1 titles, such as 'a'\n"
        assert warning in capsys.readouterr().err
    assert pq.read_table(output)["echo_answer"].to_pylist() == ["caf\ufffd", "plain"]


@pytest.mark.parametrize("cell", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_T6_formulas_are_neutral(cell):
    assert neutral(cell) == f"'{cell}"


def test_T6_formulas_are_neutral_in_answers_and_rejects(tmp_path):
    rows = [("=1+1", "@SUM(A1)", ""), ("-cut", "cut", ""), ("plain", "a=b", "")]
    table, output = write_csv(tmp_path / "table.csv", rows), tmp_path / "answers.csv"
    with ScriptedServer(refuse_cut) as server:
        assert predict.main(options(table, output, server.url)) == 0
    with output.open(newline="") as file:
        cells = [(row["id"], row["echo_answer"], row["echo_score"]) for row in csv.DictReader(file)]
    assert cells == [("'=1+1", "'@SUM(A1)", "0.5"), ("plain", "a=b", "0.5")]
    assert rejects(output)[0]["id"] == "'-cut"


def numbered(path: Path, count: int) -> Path:
    return write_csv(path, [(f"id-{n}", f"title {n}", "") for n in range(count)])


def assert_every_id_once(output: Path, count: int) -> None:
    answered = pq.read_table(output)["id"].to_pylist()
    assert len(answered) + len(rejects(output)) == count
    assert set(answered) | {row["id"] for row in rejects(output)} == {f"id-{n}" for n in range(count)}


def test_a_server_that_stays_away_stops_the_run_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "PART_ROWS", 10)
    table, output = numbered(tmp_path / "table.csv", 100), tmp_path / "answers.parquet"
    gone = threading.Event()

    def script(title: str, times: int) -> None:
        if int(title.split()[1]) >= 40 and not gone.is_set():
            raise Refuse("UNAVAILABLE", "Server is stopping")

    with ScriptedServer(script) as server:
        command = options(table, output, server.url, "--retry-for", "0.2", "--in-flight", "4")
        assert predict.main(command) == 75
        error = capsys.readouterr().err
        assert (
            "stopped: UNAVAILABLE: Server is stopping; 40 rows are done; the same command goes on from there\n" in error
        )
        assert not output.exists()
        changed = [*command, "--id-column", "name"]
        assert predict.main(changed) == 2
        assert "begun with other settings (id_column); --overwrite begins anew" in capsys.readouterr().err
        gone.set()
        assert predict.main(command) == 0
        counts = Counter(server.asked)
        assert {counts[f"title {n}"] for n in range(40)} == {1}
    assert pq.read_table(output)["id"].to_pylist() == [f"id-{n}" for n in range(100)]


def test_F10_a_configuration_error_stops_the_run_at_once(tmp_path, capsys):
    def script(title: str, times: int) -> None:
        raise Refuse("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-key'")

    with ScriptedServer(script) as server:
        command = options(numbered(tmp_path / "table.csv", 50), tmp_path / "a.csv", server.url, "--in-flight", "1")
        assert predict.main(command) == 75
        assert "This protocol is restricted" in capsys.readouterr().err
        assert len(server.asked) == 1


def test_products_that_fail_inside_the_server_are_rejects_unless_all_do(tmp_path, capsys):
    def script(title: str, times: int) -> None:
        if title in broken:
            raise Refuse("INTERNAL", "incident 0123456789ab, see the server's log")

    table, output = numbered(tmp_path / "table.csv", 100), tmp_path / "answers.parquet"
    broken = {f"title {n}" for n in range(100)}
    with ScriptedServer(script) as server:
        command = options(table, output, server.url, "--retry-for", "0.2")
        assert predict.main(command) == 75
        assert "stopped: 50 products in a row failed, the last with INTERNAL: incident" in capsys.readouterr().err
        broken = {f"title {n}" for n in range(5, 75)}
        assert predict.main(command) == 0
    assert_every_id_once(output, 100)
    assert {(row["code"], row["message"]) for row in rejects(output)} == {
        ("INTERNAL", "incident 0123456789ab, see the server's log")
    }
    assert [row["id"] for row in rejects(output)] == [f"id-{n}" for n in range(5, 75)]


def test_a_server_that_breaks_under_the_run_is_not_taken_for_bad_products(tmp_path, capsys):
    broken = threading.Event()

    def script(title: str, times: int) -> None:
        if title == "title 40":
            broken.set()
        if broken.is_set():
            raise Refuse("INTERNAL", "incident 0123456789ab, see the server's log")

    table, output = numbered(tmp_path / "table.csv", 150), tmp_path / "answers.parquet"
    with ScriptedServer(script) as server:
        command = options(table, output, server.url, "--retry-for", "0.2", "--in-flight", "1")
        assert predict.main(command) == 75
        error = capsys.readouterr().err
        assert "stopped: 50 products in a row failed" in error and "40 rows are done" in error
        broken.clear()
        server.script = lambda title, times: None
        assert predict.main(command) == 0
    assert_every_id_once(output, 150)
    assert rejects(output) == []


@pytest.mark.parametrize("slow", [{0}, {60, 199}])
def test_products_that_keep_the_server_from_all_others_are_rejects_alone(tmp_path, slow):
    """A server that works on one product after the other, also on those that nobody waits for any more."""
    at_work = threading.Lock()

    def script(title: str, times: int) -> None:
        with at_work:
            time.sleep(0.5 * (int(title.split()[1]) in slow))

    table, output = numbered(tmp_path / "table.csv", 200), tmp_path / "answers.parquet"
    with ScriptedServer(script) as server:
        command = options(table, output, server.url, "--retry-for", "20", "--timeout", "0.15", "--in-flight", "16")
        assert predict.main(command) == 0
    assert_every_id_once(output, 200)
    assert [row["id"] for row in rejects(output)] == [f"id-{n}" for n in sorted(slow)]
    assert {row["code"] for row in rejects(output)} == {"DEADLINE_EXCEEDED"}


def test_F12_a_rollout_with_another_label_set_stops_the_run(tmp_path, capsys):
    table, output = numbered(tmp_path / "table.csv", 60), tmp_path / "answers.parquet"

    def script(title: str, times: int) -> None:
        if title == "title 30":
            server.label_set = "ba9876543210"

    with ScriptedServer(script) as server:
        command = options(table, output, server.url, "--in-flight", "1")
        assert predict.main(command) == 75
        error = capsys.readouterr().err
        assert f"serves label set ba9876543210 (version 1), expected label set {LABEL_SET}" in error
        assert "30 rows are done" in error
        server.label_set, server.script = LABEL_SET, lambda title, times: None
        assert predict.main(command) == 0
    assert set(pq.read_table(output)["label_set"].to_pylist()) == {LABEL_SET}


def start(command: list[str], part_rows: int) -> subprocess.Popen[str]:
    """client.predict in a process of its own, with parts small enough to be many."""
    code = "import sys; from client.predict import run; from client.predict.__main__ import main; "
    code += f"run.PART_ROWS = {part_rows}; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def parts(output: Path) -> int:
    return len(list(output.with_name(f"{output.name}.partial").glob("parts/*.parquet")))


def wait_for_parts(output: Path, more: int) -> None:
    enough = parts(output) + more
    assert wait_until(lambda: parts(output) >= enough)


def test_L7_killed_and_interrupted_at_any_moment_no_id_is_lost_or_doubled(tmp_path):
    table, output = numbered(tmp_path / "table.csv", 2000), tmp_path / "answers.parquet"
    with ScriptedServer(lambda title, times: time.sleep(0.002)) as server:
        command = options(table, output, server.url)
        for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            process = start(command, part_rows=50)
            wait_for_parts(output, 3)
            process.send_signal(end)
            error = process.communicate(timeout=60)[1]
            assert process.returncode == (-end if end == signal.SIGKILL else 75), error
            assert end == signal.SIGKILL or "stopped: by a signal" in error
        process = start(command, part_rows=50)
        assert process.wait(60) == 0
        assert len(server.asked) < 2000 + 4 * 200
    assert pq.read_table(output)["id"].to_pylist() == [f"id-{n}" for n in range(2000)]
    assert left_over(output) == {"", ".rejects.csv", ".json"}


@pytest.mark.parametrize("last", ["rejects.csv", "", "json", "done"])
def test_L7_killed_while_the_table_is_written(tmp_path, monkeypatch, last):
    """After the file named `last` has its place."""
    table, output = numbered(tmp_path / "table.csv", 30), tmp_path / "answers.parquet"
    replace = os.replace

    def replace_and_die(source, target):
        replace(source, target)
        if Path(target).name == f"answers.parquet{'.' * bool(last)}{last}":
            raise SystemExit("killed")

    with ScriptedServer() as server:
        monkeypatch.setattr(os, "replace", replace_and_die)
        with pytest.raises(SystemExit, match="killed"):
            predict.main(options(table, output, server.url))
        monkeypatch.setattr(os, "replace", replace)
        assert predict.main(options(table, output, server.url)) == 0
        assert len(server.asked) == 30
    assert_every_id_once(output, 30)
    assert left_over(output) == {"", ".rejects.csv", ".json"}


def test_two_runs_do_not_write_one_output(tmp_path, capsys):
    table, output = numbered(tmp_path / "table.csv", 1000), tmp_path / "answers.parquet"
    with ScriptedServer(lambda title, times: server.hang() if len(server.asked) > 200 else None) as server:
        process = start(options(table, output, server.url, "--timeout", "60"), part_rows=50)
        wait_for_parts(output, 1)
        assert predict.main(options(table, output, server.url)) == 2
        assert f"{output}.partial: another run is at work in it" in capsys.readouterr().err
        process.kill()
        process.communicate()


def test_L7_a_catalogue_through_a_real_server_that_is_restarted_twice(server, products, tmp_path):
    """One kill and one orderly stop in mid-run; a hundredth of the products is bad."""
    rows = [{"sku": f"id-{n}", "name": f"red dress {n}", "photo": b""} for n in range(1500)]
    for n in range(0, 1500, 100):
        rows[n]["photo"] = b"<html>"
        rows[n + 1]["photo"] = products[n % len(products)][1]
    table, output = tmp_path / "in.parquet", tmp_path / "answers.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    with ServerProcess(server.repository, tmp_path / "server.log") as restarted:
        process = start(options(table, output, restarted.url), part_rows=50)
        for end in (kill_server, ServerProcess.stop):
            wait_for_parts(output, 4)
            end(restarted)
            restarted.start()
        assert process.wait(120) == 0, process.stderr.read()
    assert_every_id_once(output, 1500)
    assert {(row["id"], row["code"]) for row in rejects(output)} == {
        (f"id-{n}", "IMG_UNDECODABLE") for n in range(0, 1500, 100)
    }


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether it has a handler of its own for the signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(caught[1], 16) >> (number - 1) & 1)


def test_a_second_signal_ends_a_run_that_waits_for_its_server(tmp_path):
    url = f"127.0.0.1:{free_ports(1)[0]}"
    output = tmp_path / "answers.parquet"
    process = start(options(numbered(tmp_path / "table.csv", 5), output, url), part_rows=50)
    assert wait_until(lambda: catches(process, signal.SIGTERM))
    time.sleep(1)  # until its first call has been refused
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    process.communicate()


def test_no_server_at_all_is_one_line(tmp_path, capsys):
    url = f"127.0.0.1:{free_ports(1)[0]}"
    command = options(numbered(tmp_path / "table.csv", 5), tmp_path / "a.csv", url, "--retry-for", "0.2")
    assert predict.main(command) == 75
    error = capsys.readouterr().err
    assert f"stopped: UNAVAILABLE: no server at {url}; to start one: " in error and "0 rows are done" in error

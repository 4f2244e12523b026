"""The canary: one product through the whole server, and an alarm where the health endpoints see nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import repeat, takewhile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from scripted_server import LABEL_SET, Refuse, ScriptedServer
from server_faults import end_stubs, kill_server, stubs, stubs_of
from server_process import ServerProcess, free_ports
from waiting import wait_until

from bench.preprocessing import encode_jpeg
from client import Classifier, ClassifierError, canary
from client.predict import __main__ as predict
from cma_clip.machine import usable_cores

ROOT = Path(__file__).parents[2]


def refusing(code: str, message: str):
    def script(title: str, times: int) -> None:
        raise Refuse(code, message)

    return script


def test_a_server_that_answers_is_ok(capsys):
    with ScriptedServer() as server:
        assert canary.main(["--url", server.url]) == 0
        assert server.asked == ["red dress"]
    line = capsys.readouterr().out
    assert line.startswith(f"ok {server.url} ") and line.endswith(f" ms, label set {LABEL_SET}, version 1\n")


@pytest.mark.parametrize(
    ("code", "message", "word"),
    [
        ("INTERNAL", "Failed to process, message: Stub process 'decode_0_0' is not healthy.", "dead stub"),
        ("INTERNAL", "incident 0123456789ab", "failure"),
        ("UNAVAILABLE", "Exceeds maximum queue size", "busy"),
        ("NOT_FOUND", "unknown model", "failure"),
    ],
)
def test_F2_a_failure_is_one_line_that_says_what_the_health_endpoint_says(capsys, code, message, word):
    with ScriptedServer(refusing(code, message)) as server:
        assert canary.main(["--url", server.url, "--timeout", "1"]) == 1
        line = capsys.readouterr().out
        assert line.count("\n") == 1 and line.startswith(f"ALARM {server.url} {word} after ")
        assert f"health endpoint says ready: {code}: {message}" in line
        server.ready = False
        canary.main(["--url", server.url, "--timeout", "1"])
        assert "health endpoint says not ready" in capsys.readouterr().out


def test_L3_a_server_that_sheds_load_is_alive(capsys):
    def full_at_first(title: str, times: int) -> None:
        if times < 3:
            raise Refuse("UNAVAILABLE", "Exceeds maximum queue size")

    with ScriptedServer(full_at_first) as server:
        assert canary.main(["--url", server.url]) == 0
        assert len(server.asked) == 4


def test_F3_a_hang_meets_the_deadline(capsys):
    with ScriptedServer(lambda title, times: server.hang()) as server:
        assert canary.main(["--url", server.url, "--timeout", "0.2"]) == 1
        assert not server.closing.is_set() and 0 < server.granted_s[0] <= 0.21  # as far as two clocks agree
    assert "hang after " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ({"modality": "title_only"}, "wrong answer"),
        ({"probabilities": (float("nan"), 1.0)}, "PROBABILITIES is [nan, 1.0]"),
        ({"probabilities": (1.5, 0.0)}, "PROBABILITIES is [1.5, 0.0]"),
    ],
)
def test_an_answer_that_is_none_is_an_alarm(capsys, says, problem):
    with ScriptedServer() as server:
        vars(server).update(says)
        assert canary.main(["--url", server.url]) == 1
    assert problem in capsys.readouterr().out


def test_F12_another_label_set_is_an_alarm(capsys):
    with ScriptedServer() as server:
        assert canary.main(["--url", server.url, "--label-set", "ba9876543210"]) == 1
    assert "expected label set ba9876543210" in capsys.readouterr().out


def test_every_replica_is_asked_and_one_failure_counts(capsys):
    down = f"127.0.0.1:{free_ports(1)[0]}"
    with ScriptedServer() as server:
        assert canary.main(["--url", f"{server.url},{down}", "--timeout", "1"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("ok ") and second.startswith(f"ALARM {down} down after ")
    assert "health endpoint says not ready: UNAVAILABLE: no server at" in second


def test_with_an_interval_it_goes_on_until_it_is_stopped():
    broken = threading.Event()

    def script(title: str, times: int) -> None:
        if broken.is_set():
            raise Refuse("INTERNAL", "incident 1")

    with ScriptedServer(script) as server:
        command = [sys.executable, "-m", "client.canary", "--url", server.url, "--interval", "0.05"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline().startswith("ok ") and process.stdout.readline().startswith("ok ")
        broken.set()
        while process.stdout.readline().startswith("ok "):
            pass
        assert process.stdout.readline().startswith("ALARM ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1


def test_a_wrong_interval_is_refused(capsys):
    with pytest.raises(SystemExit):
        canary.main(["--interval", "0"])
    assert "--interval is 0.0" in capsys.readouterr().err


def test_F2_F3_stubs_of_a_real_server_that_hang_and_die(server, tmp_path, capsys):
    with ServerProcess(server.repository, tmp_path / "server.log") as victim:
        command = ["--url", victim.url, "--timeout", "5"]
        assert canary.main(command) == 0
        assert capsys.readouterr().out.startswith("ok ")
        stub = stubs_of(victim, "decode")[0]
        os.kill(stub, signal.SIGSTOP)
        assert canary.main(["--url", victim.url, "--timeout", "0.3"]) == 1
        line = re.fullmatch(rf"ALARM {re.escape(victim.url)} hang after (\d+) ms, .*\n", capsys.readouterr().out)
        assert line and int(line[1]) >= 300
        os.kill(stub, signal.SIGCONT)
        assert canary.main(command) == 0
        os.kill(stub, signal.SIGKILL)
        canary.main(["--url", victim.url, "--timeout", "0.3"])  # the call that finds the stub dead may hang
        capsys.readouterr()
        command = [sys.executable, "-m", "client.canary", "--url", victim.url]
        shot = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert shot.returncode == 1
        assert shot.stdout.startswith(f"ALARM {victim.url} dead stub after ") and "Stub process" in shot.stdout
        kill_server(victim)  # an orderly stop would wait half a minute for the call that the stub took along


def overload(url: str, until: Callable[[], bool], shed: threading.Event) -> None:
    """More images that take long than are decoded in time, `until` it ends; `shed` once one was refused for it."""
    image = encode_jpeg(Image.new("RGB", (5000, 4000)), progressive=True)
    products = takewhile(lambda _: not until(), repeat(("red dress", image)))
    with Classifier(url, timeout_s=5, retry_for_s=0) as classifier:
        for outcome in classifier.classify_many(products, in_flight=32 * usable_cores()):
            if isinstance(outcome, ClassifierError) and "maximum queue size" in outcome.message:
                shed.set()


@pytest.mark.alone
def test_F3_L3_under_overload_only_a_stub_that_hangs_is_an_alarm_and_predict_goes_on_elsewhere(
    server, tmp_path, capsys
):
    """A stub that comes back under load ends server 2.51, nearly always: one more replica is needed."""
    shed, over, output = threading.Event(), threading.Event(), tmp_path / "answers.parquet"
    ids = [f"id-{n}" for n in range(200)]
    (tmp_path / "table.csv").write_text("\n".join(["id,title", *(f"{id},red dress" for id in ids)]))
    with ServerProcess(server.repository, tmp_path / "server.log") as victim:
        load = threading.Thread(target=overload, args=(victim.url, over.is_set, shed))
        load.start()
        try:
            assert shed.wait(30)
            assert canary.main(["--url", victim.url]) == 0, capsys.readouterr().out
            (stub,), left = stubs_of(victim, "preprocess"), stubs(victim)
            os.kill(stub, signal.SIGSTOP)
            assert canary.main(["--url", victim.url, "--timeout", "2"]) == 1
            line = capsys.readouterr().out.splitlines()[-1]
            assert line.startswith((f"ALARM {victim.url} hang after ", f"ALARM {victim.url} dead stub after ")), line
            threading.Timer(1, os.kill, (stub, signal.SIGCONT)).start()
            columns = ["--csv", str(tmp_path / "table.csv"), "--id-column", "id", "--title-column", "title"]
            replicas = ["--url", f"{victim.url},{server.url}", "--timeout", "2", "--in-flight", "4"]
            assert predict.main([*columns, *replicas, "--output", str(output)]) == 0
            assert pq.read_table(output)["id"].to_pylist() == ids
            if wait_until(lambda: victim.process.poll() is not None, 10):
                assert victim.process.returncode < 0, victim.log_tail()
                end_stubs(left)
        finally:
            over.set()
            load.join()

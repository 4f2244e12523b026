"""The bundled server with the production profile: who may ask it what. Rows of shared/TEST_MATRIX.md by name."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from launched_server import INFER, Launched, listens, nested
from tritonclient.utils import InferenceServerException

from client import Classifier
from serve.profiles import ADMIN_HEADER

KEY = "0123456789abcdef0123456789abcdef"
GRPC_ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_HEADER}"
# The user of NVIDIA's image, with no right of root's but to look into folders: Python may lie under /root.
READ = "+dac_read_search"
AS_USER_1000 = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs"]
AS_USER_1000 += [f"--{kind}=-all,{READ}" for kind in ("bounding-set", "inh-caps", "ambient-caps")]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that user 1000 can look into, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="cma_clip_launch_"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def repository(server, folder) -> Path:
    """An export that nobody may write to."""
    repository = folder / "deploy"
    shutil.copytree(server.repository, repository, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(repository)], check=True)
    return repository


@pytest.fixture(scope="module")
def certificates(folder) -> Path:
    """ca.pem, what it signed for the server and for a caller (NAME.pem, NAME.key), and admin.key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests", "-days", "2")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "caller"):
        openssl("req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    (folder / "admin.key").write_text(KEY)
    for file in (folder / "server.key", folder / "admin.key"):
        file.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(file, 1000, 1000)
    return folder


@pytest.fixture(scope="module")
def production(repository, certificates, folder) -> Iterator[Launched]:
    """As user 1000, with certificates on both sides, an admin key, and connections that live for a second."""
    files = {"tls-certificate": "server.pem", "tls-key": "server.key", "tls-client-ca": "ca.pem"}
    files["admin-key-file"] = "admin.key"
    own = [f"--{option}={certificates / file}" for option, file in files.items()] + ["--allow-old-server"]
    prefix = AS_USER_1000 if os.geteuid() == 0 else []
    short = ["--grpc-max-connection-age=1000", "--grpc-max-connection-age-grace=10000"]
    with Launched(repository, folder / "production.log", "production", *own, prefix=prefix, further=short) as launched:
        yield launched


@pytest.fixture(scope="module")
def client(production, certificates) -> Iterator[triton.InferenceServerClient]:
    with connect(production, certificates) as client:
        yield client


def connect(production: Launched, certificates: Path, **other: str | None) -> triton.InferenceServerClient:
    files = {"root_certificates": "ca.pem", "private_key": "caller.key", "certificate_chain": "caller.pem"} | other
    paths = {name: str(certificates / file) for name, file in files.items() if file}
    return triton.InferenceServerClient(f"localhost:{production.grpc}", ssl=True, **paths)


def classify(client: triton.InferenceServerClient, title: str, image: bytes = b"") -> dict:
    inputs = []
    for name, value in (("TITLE", title.encode()), ("IMAGE", image)):
        inputs.append(triton.InferInput(name, [1, 1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([[value]], dtype=object))
    return json.loads(client.infer("cma_clip", inputs, client_timeout=20).as_numpy("PREDICTION").item())


def test_production_serves_over_tls_what_the_other_server_answers(client, server, products):
    with Classifier(server.url) as classifier:
        for title, image in products[:5]:
            answer, expected = classify(client, title, image), classifier.classify(title, image).prediction
            assert answer.keys() == expected.keys()
            for task, told in answer.items():
                assert told["label"] == expected[task]["label"]
                assert told["score"] == pytest.approx(expected[task]["score"], abs=1e-5)


@pytest.mark.parametrize(
    "files",
    [{"private_key": None, "certificate_chain": None}, {"root_certificates": "caller.pem"}],
    ids=["caller_shows_none", "caller_trusts_another"],
)
def test_production_speaks_to_nobody_without_the_right_certificate(production, certificates, files):
    with (
        connect(production, certificates, **files) as stranger,
        pytest.raises(InferenceServerException) as caught,
    ):
        stranger.is_server_live(client_timeout=5)
    assert caught.value.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


def test_production_speaks_no_plain_grpc(production):
    with (
        triton.InferenceServerClient(f"127.0.0.1:{production.grpc}") as plain,
        pytest.raises(InferenceServerException),
    ):
        plain.is_server_live(client_timeout=5)


ADMIN_CALLS = {
    "model-repository": lambda c, headers: c.get_model_repository_index(headers=headers),
    "model-config": lambda c, headers: c.get_model_config("engine", headers=headers),
    "statistics": lambda c, headers: c.get_inference_statistics(headers=headers),
    "trace": lambda c, headers: c.get_trace_settings(headers=headers),
    "logging": lambda c, headers: c.get_log_settings(headers=headers),
    "shared-memory": lambda c, headers: c.get_system_shared_memory_status(headers=headers),
}


@pytest.mark.parametrize("protocol", ADMIN_CALLS)
def test_F10_grpc_admin_calls_need_the_key(client, protocol):
    call = ADMIN_CALLS[protocol]
    for headers in (None, {GRPC_ADMIN_HEADER: KEY[:-1]}, {ADMIN_HEADER: KEY}):
        with pytest.raises(InferenceServerException, match="restricted") as caught:
            call(client, headers)
        assert caught.value.status() == "StatusCode.UNAVAILABLE" and KEY not in caught.value.message()
    assert call(client, {GRPC_ADMIN_HEADER: KEY}) is not None


@pytest.mark.parametrize("call", ["register_system_shared_memory", "unregister_system_shared_memory"])
def test_F10_nobody_registers_shared_memory(client, call):
    arguments = {"register_system_shared_memory": ("mine", "/mine", 64), "unregister_system_shared_memory": ("mine",)}
    with pytest.raises(InferenceServerException, match="restricted"):
        getattr(client, call)(*arguments[call])


def test_F10_models_are_neither_loaded_nor_unloaded_even_with_the_key(client):
    headers = {GRPC_ADMIN_HEADER: KEY}
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="restricted"):
            call("decode")
        with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed"):
            call("decode", headers=headers)
    assert classify(client, "red dress")


def test_health_and_metadata_are_open_over_grpc(client):
    assert client.is_server_ready() and client.is_model_ready("cma_clip")
    assert client.get_server_metadata().version == "2.51.0"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2"),
        ("GET", "/v2/models/cma_clip"),
        ("GET", "/v2/models/engine/config"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/decode/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/mine/register"),
        ("POST", "/v2/cudasharedmemory/region/mine/register"),
        ("POST", INFER),
        ("POST", "/v2/models/cma_clip/generate"),
    ],
)
def test_F10_http_answers_403_to_all_but_health(production, method, path):
    status, body = production.ask(method, path)
    assert status == 403 and json.loads(body)["error"].startswith("This API is restricted")
    assert production.ask(method, path, **{ADMIN_HEADER: KEY[:-1]})[0] == 403


def test_F10_http_answers_with_the_key(production):
    status, body = production.ask("POST", "/v2/repository/index", **{ADMIN_HEADER: KEY})
    models = {model["name"]: model["state"] for model in json.loads(body)}
    assert status == 200 and models["cma_clip"] == models["engine"] == "READY"


def test_probes_are_answered_without_a_key(production):
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/cma_clip/ready"):
        assert production.ask("GET", path)[0] == 200
    metrics = http.client.HTTPConnection("127.0.0.1", production.metrics, timeout=10)
    metrics.request("GET", "/metrics")
    assert b"nv_inference_request_success" in metrics.getresponse().read()


def test_P5_production_refuses_over_http_before_it_reads(production, client):
    """On 2.51 a hundred thousand brackets end a server that parses them, and a zipped body grows without limit."""
    before = production.resident_mib()
    bomb = gzip.compress(bytes(100 << 20))
    for body, headers in ((nested(50_000), {}), (nested(1_000_000), {}), (bomb, {"Content-Encoding": "gzip"})):
        assert production.ask("POST", INFER, body, **headers)[0] == 403
    assert production.resident_mib() - before < 20
    assert classify(client, "red dress")


def test_production_runs_as_a_user_that_cannot_change_what_it_serves(production, repository, folder):
    status = Path(f"/proc/{production.process.pid}/status").read_text()
    assert status.split("Uid:")[1].split()[0] != "0"
    log = (folder / "production.log").read_text()
    assert "can be written" not in log and "not encrypted" not in log
    assert not list(repository.rglob("__pycache__"))


def test_the_admin_key_is_in_no_log(production, folder):
    assert KEY not in (folder / "production.log").read_text()


def test_connections_that_grow_old_lose_no_call(client, products):
    """For three seconds, over connections that the server closes after one."""
    faults: list[Exception] = []

    def ask_on() -> None:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                classify(client, *products[0])
            except InferenceServerException as fault:
                faults.append(fault)

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_production_listens_on_all_addresses(production):
    for port in (production.http, production.grpc, production.metrics):
        assert listens("127.0.0.1", port) and listens("127.0.0.2", port)


def test_production_ends_with_0_at_sigterm(repository, folder, production):
    """The last test of this file: it stops the server."""
    production.process.terminate()
    assert production.process.wait(40) == 0

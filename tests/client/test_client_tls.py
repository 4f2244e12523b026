"""TLS and mutual TLS between the client and a server, with certificates made here."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import grpc
import pytest
from scripted_server import LABEL_SET, ScriptedServer

from client import AsyncClassifier, Classifier, Misconfigured, ServerUnavailable, Tls, canary, classify


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """ca.pem, and ours.pem and its key, signed by it for 127.0.0.1; other.pem is a stranger's authority."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "other"):
        subject = ["-subj", f"/CN={name}", "-days", "2"]
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", *subject)
    openssl("req", "-new", *key, "-keyout", "ours.key", "-out", "ours.csr", "-subj", "/CN=ours")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2", "-extfile", "names"]
    openssl("x509", "-req", "-in", "ours.csr", *signed, "-out", "ours.pem")
    return folder


@pytest.fixture(params=["one way", "mutual"])
def server(request, folder):
    mutual = request.param == "mutual"
    pair = ((folder / "ours.key").read_bytes(), (folder / "ours.pem").read_bytes())
    ca = (folder / "ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], ca if mutual else None, require_client_auth=mutual)
    with ScriptedServer(credentials=credentials) as server:
        server.files = ["ours.pem", "ours.key"] if mutual else []
        yield server


def test_both_classifiers_speak_tls(server, folder):
    async def ask() -> str | None:
        async with AsyncClassifier(server.url, tls=tls) as classifier:
            return (await classifier.classify("x")).label_set

    tls = Tls(folder / "ca.pem", *(folder / name for name in server.files))
    with Classifier(server.url, tls=tls) as classifier:
        assert classifier.classify("x").label_set == LABEL_SET
    assert asyncio.run(ask()) == LABEL_SET


@pytest.mark.parametrize(
    ("tls", "error", "problem"),
    [(None, ServerUnavailable, "ends each connection"), ("other.pem", Misconfigured, "CERTIFICATE_VERIFY_FAILED")],
)
def test_without_tls_or_from_a_stranger_nothing_is_answered(server, folder, tls, error, problem):
    trusted = Tls(folder / tls, *(folder / name for name in server.files)) if tls else None
    with Classifier(server.url, timeout_s=5, tls=trusted) as classifier:
        with pytest.raises(error, match=problem) as caught:
            classifier.classify("x")
        assert caught.value.code == "UNAVAILABLE" and not server.asked


def test_tls_that_fails_is_not_tried_again(folder):
    with ScriptedServer() as plain, Classifier(plain.url, retry_for_s=30, tls=Tls(folder / "ca.pem")) as classifier:
        start = time.monotonic()
        with pytest.raises(Misconfigured, match=rf"TLS with {plain.url} fails \(WRONG_VERSION_NUMBER\)"):
            classifier.classify("x")
        assert time.monotonic() - start < 15


def test_the_commands_speak_tls(server, folder, capsys):
    own = [f"--tls-{kind}={folder / name}" for kind, name in zip(("cert", "key"), server.files, strict=False)]
    options = ["--url", server.url, f"--tls-ca={folder / 'ca.pem'}", *own]
    assert classify.main(["--title", "x", *options]) == 0
    assert canary.main(options) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"ok {server.url} ")


def test_a_certificate_without_its_key_is_refused(folder, capsys):
    certificate = folder / "ours.pem"
    with pytest.raises(SystemExit):
        canary.main(["--tls-ca", str(folder / "ca.pem"), "--tls-cert", str(certificate)])
    assert "mutual TLS needs --tls-ca, --tls-cert and --tls-key" in capsys.readouterr().err

"""Each profile holds only flags that its server knows, opens only what it should, and can be replaced flag by flag."""

from __future__ import annotations

import pytest
from server_process import tritonserver

from serve.launch import known_flags
from serve.profiles import (
    ADMIN,
    DEMO,
    OLDEST,
    PRODUCTION,
    PROFILES,
    TABLE,
    Credentials,
    Version,
    flag_name,
    render,
    replaced,
)

TLS = Credentials(admin_key="k" * 32, tls_certificate="c.pem", tls_key="k.pem", tls_client_ca="ca.pem")
# What came after 2.51, with the first tag of triton-inference-server/server whose command_line_parser.cc has it.
# v2.71.0 (26.07) and the newest source looked at, 2.73 in development (e1db8a6), know these, and no flag went.
ADDED = {
    "grpc-max-response-pool-size": Version(2, 56),
    "grpc-infer-thread-count": Version(2, 57),
    "http-max-input-size": Version(2, 59),
    "allow-client-shm": Version(2, 68),
}
PROTOCOLS = {"health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics"}
PROTOCOLS |= {"trace", "logging"}


def flags(profile: str, version: Version, credentials: Credentials = TLS) -> dict[str, str]:
    rendered = render(profile, version, credentials)
    pairs = dict(flag.removeprefix("--").split("=", 1) for flag in rendered)
    assert len(pairs) == len(rendered), "a flag stands twice"
    return pairs


@pytest.fixture(scope="module")
def bundled() -> set[str]:
    """What the bundled server, 2.51, says that it knows."""
    names = known_flags(tritonserver())
    assert {"help", "model-repository"} < names and not names & ADDED.keys()
    return names


@pytest.mark.parametrize("minor", [51, 55, 56, 58, 59, 67, 68, 71, 75])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_server_of_each_version_knows_its_flags(bundled, profile, minor):
    version = Version(2, minor)
    known = bundled | {name for name, since in ADDED.items() if version >= since}
    assert flags(profile, version).keys() <= known
    assert not {flag.name for flag in TABLE[profile]} & known - flags(profile, version).keys(), "left out, though known"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_server_that_is_published_into_starts_with_the_ensemble_and_loads_more(bundled, profile):
    usual, publishing = flags(profile, OLDEST), render(profile, OLDEST, TLS, publishing=True)
    changed = dict(flag.removeprefix("--").split("=", 1) for flag in publishing)
    assert len(changed) == len(publishing) and {"load-model", "strict-readiness"} <= bundled
    own = {"model-control-mode": "explicit", "load-model": "cma_clip", "strict-readiness": "false"}
    assert changed == usual | own


@pytest.mark.parametrize("version", [Version(2, 51), OLDEST, Version(2, 75)])
def test_F10_only_health_is_open_over_http_and_no_admin_protocol_over_grpc(version):
    rendered = flags(PRODUCTION, version)
    for flag, left_open in (("http-restricted-api", {"health"}), ("grpc-restricted-protocol", PROTOCOLS)):
        protocols, secret = rendered[flag].split(":")
        assert secret == f"admin-key={'k' * 32}"
        closed = set(protocols.split(","))
        assert closed <= PROTOCOLS and set(ADMIN.split(",")) <= closed
        assert PROTOCOLS - closed == (left_open if flag.startswith("http") else {"health", "metadata", "inference"})
    assert rendered["model-control-mode"] == "none"


def test_F10_shared_memory_of_callers_is_off_where_the_server_can():
    assert flags(PRODUCTION, OLDEST)["allow-client-shm"] == flags(DEMO, OLDEST)["allow-client-shm"] == "false"


def test_without_a_key_nobody_has_one():
    first, second = Credentials(), Credentials()
    assert first.admin_key != second.admin_key and len(first.admin_key) >= 32


def test_demo_stays_on_this_machine():
    rendered = flags(DEMO, Version(2, 51))
    assert {rendered[f"{service}-address"] for service in ("http", "grpc", "metrics")} == {"127.0.0.1"}


def test_tls_is_what_is_given():
    def tls(**files: str) -> dict[str, str]:
        rendered = flags(PRODUCTION, OLDEST, Credentials(**files))
        return {
            name: value for name, value in rendered.items() if "ssl" in name or "cert" in name or "server-k" in name
        }

    one_way = {"grpc-use-ssl": "true", "grpc-server-cert": "c.pem", "grpc-server-key": "k.pem"}
    assert tls() == {}
    assert tls(tls_certificate="c.pem", tls_key="k.pem") == one_way
    both_ways = tls(tls_certificate="c.pem", tls_key="k.pem", tls_client_ca="ca.pem")
    assert both_ways == one_way | {"grpc-use-ssl-mutual": "true", "grpc-root-cert": "ca.pem"}


def test_further_arguments_replace_flags_of_the_same_name():
    kept, gone = replaced(["--a=1", "--b-c=2", "--d=3"], ["--b-c", "5", "--d=4", "--e=6"])
    assert (kept, gone) == (["--a=1"], ["--b-c=2", "--d=3"])
    assert [flag_name(argument) for argument in ("--b-c", "--d=4", "5", "-h")] == ["b-c", "d", None, None]


@pytest.mark.parametrize(("text", "version"), [("2.51.0", (2, 51)), ("2.75", (2, 75)), ("3.0.0dev", (3, 0))])
def test_versions_are_compared_as_numbers(text, version):
    assert Version.parse(text) == version
    assert Version(2, 9) < Version(2, 51) < Version(3, 0)


def test_what_is_no_version_or_profile_is_said():
    with pytest.raises(ValueError, match="server version 'latest': expected one such as 2.75.0"):
        Version.parse("latest")
    with pytest.raises(ValueError, match="profile 'debug': expected one of demo, production"):
        render("debug", OLDEST, TLS)

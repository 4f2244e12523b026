"""How tritonserver is started for a demo and for production: one table of flags, rendered for a server's version."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import NamedTuple

from serve.sets import ENSEMBLE

DEMO, PRODUCTION = "demo", "production"
PROFILES = (DEMO, PRODUCTION)
# What an operator may ask, not a caller; Triton's names of its protocols.
ADMIN = "model-repository,model-config,shared-memory,statistics,trace,logging"
ADMIN_HEADER = "admin-key"  # over HTTP; gRPC's metadata key is this behind `triton-grpc-protocol-`


class Version(NamedTuple):
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """`2.75.0`, or as much of it as `2.75`.

        Raises:
            ValueError: that is no version.
        """
        match = re.match(r"(\d+)\.(\d+)", text)
        if match is None:
            raise ValueError(f"server version {text!r}: expected one such as 2.75.0")
        return cls(int(match[1]), int(match[2]))


# The oldest server that production may run, and the image to pin: older ones have published CVEs.
OLDEST = Version(2, 71)
IMAGE = "nvcr.io/nvidia/tritonserver:26.11-py3"


@dataclass(frozen=True)
class Credentials:
    """What fills the table's placeholders; a flag whose placeholder is None is left out.

    Attributes:
        admin_key: opens the restricted protocols to whoever sends it; by default one that nobody is told.
        tls_certificate, tls_key: PEM files of the gRPC endpoint.
        tls_client_ca: PEM file; callers must show a certificate that it signed.
    """

    admin_key: str = field(default_factory=secrets.token_urlsafe)
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None

    @property
    def tls(self) -> str | None:
        return self.tls_certificate and "true"

    @property
    def mutual_tls(self) -> str | None:
        return self.tls_client_ca and "true"


class Flag(NamedTuple):
    """One row of the table.

    Attributes:
        value: its text; `{name}` stands for that one of Credentials.
        since: the server's version that first knew the flag; 2.51, the oldest looked at, for those before.
    """

    name: str
    value: str
    why: str
    since: Version = Version(2, 51)


TABLE = {
    DEMO: [
        Flag("grpc-address", "127.0.0.1", "for this machine only"),
        Flag("http-address", "127.0.0.1", "for this machine only"),
        Flag("metrics-address", "127.0.0.1", "for this machine only"),
        Flag("grpc-http2-min-recv-ping-interval-without-data", "4000", "ms; the client pings every 5 s of a call"),
        Flag("model-control-mode", "none", "models are those of the start, whoever asks"),
        Flag("allow-client-shm", "false", "images come in the request", Version(2, 68)),
    ],
    PRODUCTION: [
        Flag("grpc-address", "0.0.0.0", "callers come over gRPC"),
        Flag("http-address", "0.0.0.0", "probes come over HTTP, also where gRPC speaks TLS"),
        Flag("metrics-address", "0.0.0.0", "Prometheus comes over its own port"),
        Flag("allow-vertex-ai", "false", "else an environment variable opens another port"),
        Flag("allow-sagemaker", "false", "another port that nobody asks"),
        Flag("model-control-mode", "none", "loading a model is running its code"),
        Flag("exit-on-error", "true", "one model that fails to load fails the start"),
        Flag("strict-readiness", "true", "ready means every model is"),
        Flag("exit-timeout-secs", "30", "what is in flight at SIGTERM may end"),
        Flag(
            "grpc-restricted-protocol",
            f"{ADMIN}:{ADMIN_HEADER}={{admin_key}}",
            "health, metadata and inference stay open",
        ),
        Flag(
            "http-restricted-api",
            f"{ADMIN},metadata,inference:{ADMIN_HEADER}={{admin_key}}",
            "health stays open; on 2.51 deeply nested JSON kills the server, and this refuses it unread",
        ),
        Flag("http-max-input-size", "65536", "bytes; probes have no body", Version(2, 59)),
        Flag("allow-client-shm", "false", "images come in the request; regions have had CVEs", Version(2, 68)),
        Flag("grpc-use-ssl", "{tls}", "TLS"),
        Flag("grpc-server-cert", "{tls_certificate}", "TLS"),
        Flag("grpc-server-key", "{tls_key}", "TLS"),
        Flag("grpc-use-ssl-mutual", "{mutual_tls}", "only callers with a certificate"),
        Flag("grpc-root-cert", "{tls_client_ca}", "who signs the callers' certificates"),
        Flag("grpc-keepalive-time", "60000", "ms; a caller that vanished is noticed"),
        Flag("grpc-keepalive-timeout", "20000", "ms"),
        Flag("grpc-http2-min-recv-ping-interval-without-data", "4000", "ms; the client pings every 5 s of a call"),
        Flag(
            "grpc-max-connection-age",
            "60000",
            "ms; callers look the name up again and find new replicas; no call is cut off",
        ),
        Flag("grpc-max-connection-age-grace", "30000", "ms; for the calls in flight then"),
        Flag("metrics-config", "summary_latencies=true", "quantiles of the time in queue and in each step"),
        Flag("trace-config", "level=off", "titles and images stay out of files"),
        Flag("log-format", "ISO8601", "times with their zone"),
    ],
}

# In place of a profile's own where `cma-clip publish` may change what is served.
PUBLISHING = [
    Flag(
        "model-control-mode",
        "explicit",
        "cma-clip publish loads bundles; in production behind the admin key",
    ),
    Flag("load-model", ENSEMBLE, "and with it the steps that it names"),
    Flag("strict-readiness", "false", "ready while a model loads: the others answer"),
]


def render(profile: str, version: Version, credentials: Credentials, publishing: bool = False) -> list[str]:
    """The flags `--name=value` of a profile that a server of this version knows.

    Args:
        publishing: with PUBLISHING.
    Raises:
        ValueError: unknown profile.
    """
    if profile not in TABLE:
        raise ValueError(f"profile {profile!r}: expected one of {', '.join(PROFILES)}")
    more = PUBLISHING if publishing else []
    own = [flag for flag in TABLE[profile] if flag.name not in {row.name for row in more}]
    rows = [flag for flag in own + more if version >= flag.since]
    values = [(flag.name, _filled(flag.value, credentials)) for flag in rows]
    return [f"--{name}={value}" for name, value in values if value is not None]


def _filled(template: str, credentials: Credentials) -> str | None:
    names = re.findall(r"{(\w+)}", template)
    values = {name: getattr(credentials, name) for name in names}
    return None if None in values.values() else template.format(**values)


def flag_name(argument: str) -> str | None:
    """`--name=value` or `--name` -> `name`; None for what is a value by itself."""
    match = re.match(r"--([\w-]+)", argument)
    return match and match[1]


def replaced(rendered: list[str], further: list[str]) -> tuple[list[str], list[str]]:
    """A profile's flags, and those of them that the further arguments set anew."""
    names = {flag_name(argument) for argument in further} - {None}
    kept = [flag for flag in rendered if flag_name(flag) not in names]
    return kept, [flag for flag in rendered if flag_name(flag) in names]

"""What a connection does by itself: one name for several replicas, looked up again, and a peer that falls silent."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

from scripted_server import ScriptedServer

from client import Classifier
from client.protocol import CHANNEL, KEEPALIVE_MS
from serve.profiles import PROFILES, TABLE

A_RECORD = 1


class NameServer:
    """DNS over UDP that says of every name: these IPv4 addresses. A context manager."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.asked = list(addresses), 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.authority = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def __enter__(self) -> NameServer:
        threading.Thread(target=self._answer, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _answer(self) -> None:
        with suppress(OSError):
            while True:
                query, caller = self.socket.recvfrom(2048)
                end = query.index(0, 12) + 5
                addresses = self.addresses if query[end - 3] == A_RECORD else []
                self.asked += query[end - 3] == A_RECORD
                header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(addresses), 0, 0)
                record = b"\xc0\x0c" + struct.pack(">HHIH", A_RECORD, 1, 0, 4)
                records = b"".join(record + socket.inet_aton(address) for address in addresses)
                self.socket.sendto(header + query[12:end] + records, caller)


class SilentProxy:
    """Passes TCP on to a port until `fall_silent`: what is open then stays open and nothing more comes through."""

    def __init__(self, port: int) -> None:
        self.port, self.silent = port, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> SilentProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def fall_silent(self) -> None:
        """For the connections of now; new ones pass."""
        self.silent.set()
        self.silent = threading.Event()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, theirs = self.listener.accept()[0], socket.create_connection(("127.0.0.1", self.port))
                for ends in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=(*ends, self.silent), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not silent.is_set():
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_one_name_of_several_replicas_spreads_and_is_looked_up_again():
    """As deploy/kubernetes.yaml's headless Service has it: a name with an address for each pod."""
    aged = [("grpc.max_connection_age_ms", 1000)]
    with (
        ScriptedServer(options=aged) as first,
        ScriptedServer(port=first.port, host="127.0.0.2", options=aged) as second,
        NameServer("127.0.0.1") as names,
        Classifier(f"dns://{names.authority}/cma-clip.test:{first.port}", timeout_s=10, retry_for_s=30) as classifier,
    ):
        classifier.classify("alone")
        names.addresses = ["127.0.0.1", "127.0.0.2"]
        deadline = time.monotonic() + 60
        while not second.asked and time.monotonic() < deadline:
            classifier.classify("waits")
            time.sleep(0.1)
        for place in range(20):
            classifier.classify(str(place))
    shares = [sum(title.isdecimal() for title in server.asked) for server in (first, second)]
    assert sum(shares) == 20 and min(shares) >= 5, shares


def test_a_connection_that_falls_silent_is_given_up_and_made_anew():
    with (
        ScriptedServer() as server,
        SilentProxy(server.port) as proxy,
        Classifier(proxy.url, timeout_s=30, retry_for_s=30) as classifier,
    ):
        classifier.classify("before")
        proxy.fall_silent()
        started = time.monotonic()
        classifier.classify("after")
        assert time.monotonic() - started < 15


def test_every_profile_allows_the_clients_pings():
    options = dict(CHANNEL)
    assert KEEPALIVE_MS + options["grpc.keepalive_timeout_ms"] < 15_000
    for profile in PROFILES:
        flags = {flag.name: flag.value for flag in TABLE[profile]}
        assert int(flags["grpc-http2-min-recv-ping-interval-without-data"]) < KEEPALIVE_MS

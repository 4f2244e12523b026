"""What is read of a machine: ports, shared memory, GPUs, TensorRT."""

from __future__ import annotations

import mmap
import os
import socket
from types import SimpleNamespace

import pytest
from launch_files import write_command, write_tensorrt
from server_process import free_ports

from serve import host


def test_an_occupied_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} .grpc.: Address already in use.* --grpc-port=N"):
            host.check_port("grpc", "127.0.0.1", port)
    host.check_port("grpc", "127.0.0.1", free_ports(1)[0])


@pytest.mark.parametrize("address", ["192.0.2.1", "no such address"])
def test_an_address_elsewhere_is_refused(address):
    with pytest.raises(ValueError, match="port 0 .http.: "):
        host.check_port("http", address, 0)


@pytest.mark.parametrize(("free", "warned"), [(64 << 20, True), ((1 << 30) - 4096, True), (1 << 30, False)])
def test_F6_less_than_a_gigabyte_of_shared_memory_is_a_warning(monkeypatch, tmp_path, free, warned):
    monkeypatch.setattr(host.psutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    warning = host.little_shared_memory(tmp_path)
    assert (warning is not None) is warned
    if warning:
        assert f"{tmp_path} has {free >> 20} MiB free" in warning and "--shm-size=1g" in warning


def test_F5_only_regions_that_no_process_maps_are_removed(tmp_path):
    stale, live, other = (tmp_path / name for name in (f"{host.REGION}a", f"{host.REGION}b", "another"))
    for path in (stale, live, other):
        path.write_bytes(bytes(4096))
    with live.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert host.remove_stale_regions(tmp_path) == [stale.name]
    assert sorted(tmp_path.iterdir()) == [other, live]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_F5_the_regions_of_another_user_stay(tmp_path):
    region = tmp_path / f"{host.REGION}a"
    region.touch()
    os.chown(region, 1000, 1000)
    assert host.remove_stale_regions(tmp_path) == [] and region.exists()


def test_F8_tensorrt_says_its_version_without_its_python_package(monkeypatch, tmp_path):
    library = write_tensorrt(tmp_path, "10.14.1.48")
    monkeypatch.setattr(host.ctypes.util, "find_library", lambda name: {"nvinfer": str(library)}.get(name))
    assert host.tensorrt_version() == "10.14.1.48"
    monkeypatch.setattr(host.ctypes.util, "find_library", lambda name: None)
    assert host.tensorrt_version() == "none"


@pytest.mark.parametrize(
    ("script", "found"),
    [("echo 9.0; echo 12.1", ["9.0", "12.1"]), ("echo no driver; exit 9", []), (None, [])],
    ids=["two_gpus", "no_driver", "no_command"],
)
def test_F8_gpus_are_those_of_nvidia_smi(monkeypatch, tmp_path, script, found):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    if script:
        write_command(tmp_path / "nvidia-smi", script)
    assert host.compute_capabilities() == found

"""Dockerfile, Kubernetes manifests and compose file: valid by themselves, agreeing with each other and the code.

No image is built here: there is no container engine on a test machine.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import compose_spec
import kubernetes_validate
import pytest
import yaml
from container_files import (
    DEPLOY,
    PINNED,
    ROOT,
    compose,
    container,
    documents,
    gibibytes,
    last,
    mounts,
    pod,
    production_flag,
    stages,
)
from setuptools import find_packages

from serve.profiles import IMAGE

CUSTOM = {"ServiceMonitor"}  # a resource of Prometheus's operator: no schema of it installs from a registry
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def hadolint(text: str) -> list[str]:
    """Codes of all findings, of any severity."""
    command = [Path(sys.executable).with_name("hadolint"), "--format", "json", "--no-fail", "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return [finding["code"] for finding in json.loads(result.stdout)]


def test_hadolint_finds_nothing():
    text = (ROOT / "Dockerfile").read_text()
    assert hadolint(text) == []
    assert hadolint(text.replace("# hadolint ignore=DL3008\n", "")) == ["DL3008"], "the one excuse is still needed"
    assert text.count("hadolint ignore") == 1


def test_the_build_sees_what_pip_installs_and_nothing_else():
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    found = find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    allowed = {line[1:] for line in rest if line.startswith("!")}
    assert first == "*"
    assert allowed == {name.split(".")[0] for name in found} | {"pyproject.toml", "LICENSE", "README.md"}
    assert all((ROOT / name).exists() for name in allowed) and PROJECT["project"]["readme"] in allowed


def test_images_install_extras_that_fit():
    installed = {
        stage: re.findall(r"'\.\[(.+?)\]'", " ".join(arguments for _, arguments in instructions))
        for stage, instructions in stages().items()
    }
    assert installed == {"train": ["train"], "triton": [], "steps": ["serve"], "serve": []}
    extras = {
        extra: {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
        for extra, requirements in PROJECT["project"]["optional-dependencies"].items()
    }
    assert {"deepspeed", "torch"} <= extras["train"] and "openvino" in extras["serve"]
    assert not extras["serve"] & {"torch", "nvidia-pytriton"}, "the image has a server of its own"
    assert "'numpy<2'" in last("steps", "RUN")


def test_every_image_is_pinned_to_one_version():
    """Ours to the project's version, NVIDIA's to the one that the launcher asks for, others to one of theirs."""
    version = PROJECT["project"]["version"]
    bases = [arguments.split()[0] for stage in stages().values() for name, arguments in stage if name == "FROM"]
    outside = [base for base in bases if base not in stages()]
    assert IMAGE in outside and f'base.name="{IMAGE}"' in last("serve", "LABEL")
    for image in [*outside, container()["image"], *(service["image"] for service in compose()["services"].values())]:
        assert re.search(r":v?\d+\.\d+[\w.-]*$", image), image
    for stage in ("train", "serve"):
        assert f'image.version="{version}"' in last(stage, "LABEL")
    guides = [ROOT / f"docs/guides/{name}.md" for name in ("gpus", "serving")]
    for file in (ROOT / "Dockerfile", DEPLOY / "compose.yaml", DEPLOY / "kubernetes.yaml", *guides):
        text = file.read_text()
        assert set(re.findall(r"cma-clip-(?:serve|train):([\w.-]+)", text)) == {version}, file
        assert set(re.findall(r"nvcr.io/nvidia/tritonserver:[\w.-]+", text)) <= {IMAGE}, file
    readme = (ROOT / "README.md").read_text()
    assert not re.search(r"cma-clip-(?:serve|train):|nvcr.io", readme), "its images stand in the guides"


def test_images_run_as_user_1000_and_stop_on_sigterm():
    for stage in ("train", "serve"):
        assert (last(stage, "USER"), last(stage, "STOPSIGNAL")) == ("1000:1000", "SIGTERM")
    security = pod()["spec"]["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == last("serve", "USER")
    assert compose()["services"]["server-cpu"]["user"] == last("serve", "USER")


@pytest.mark.parametrize("service", ["server-cpu", "server-gpu"])
def test_image_deployment_and_compose_start_what_the_launcher_knows(service):
    """It listens where they say: the default ports, on all addresses."""
    entry = json.loads(last("serve", "ENTRYPOINT"))
    assert container()["command"] + container()["args"] == entry
    arguments = [*entry[1:], *compose()["services"][service].get("command", [])]
    shown = [sys.executable, *arguments, "--print", "--server-version", str(PINNED)]
    printed = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert printed.returncode == 0, printed.stderr
    flags = dict(flag[2:].split("=", 1) for flag in shlex.split(printed.stdout)[1:])
    addresses = {f"{protocol}-address": "0.0.0.0" for protocol in ("grpc", "http", "metrics")}
    assert flags.items() >= ({"model-repository": "/models"} | addresses).items()
    assert flags.get("model-config-name") == {"server-cpu": "cpu", "server-gpu": None}[service]
    assert not flags.keys() & {"grpc-port", "http-port", "metrics-port"}
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert last("serve", "EXPOSE").split() == [str(port) for port in ports.values()]


@pytest.mark.alone
def test_F3_canary_is_health_check_and_liveness_probe():
    """What answers its health endpoint but hangs is found by asking it for a classification."""
    check = last("serve", "HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + 3 :])
    assert container()["livenessProbe"]["exec"]["command"] == command
    # No server listens at this port: the probe must say so in time, with the exit code that counts as a failure.
    dead = [sys.executable, *command[1:-1], "localhost:1"]
    start = time.monotonic()
    result = subprocess.run(dead, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1 and "localhost:1" in result.stdout, result.stderr
    assert time.monotonic() - start < min(container()["livenessProbe"]["timeoutSeconds"], _option(check, "timeout"))
    assert command[-2:] == ["--url", "localhost:8001"]


def _option(check: str, name: str) -> int:
    return int(re.search(rf"--{name}=(\d+)s", check)[1])


def test_F2_F11_readiness_asks_the_server_for_all_its_models(server):
    """An ensemble by itself says ready even where its steps are dead; the server's answer asks every model."""
    (http,) = [argument.split("=")[1] for argument in server.command if argument.startswith("--http-port")]
    for probe in ("startupProbe", "readinessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=10) as answer:
            assert answer.status == 200
    assert production_flag("strict-readiness") == "true"
    assert "health" not in production_flag("http-restricted-api")
    startup = container()["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= _option(
        last("serve", "HEALTHCHECK"), "start-period"
    )


def test_F4_a_server_has_time_to_drain():
    pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    exit_timeout = int(production_flag("exit-timeout-secs"))
    assert pause > 0 and pod()["spec"]["terminationGracePeriodSeconds"] > pause + exit_timeout
    for name in ("server-cpu", "server-gpu"):
        assert int(compose()["services"][name]["stop_grace_period"].removesuffix("s")) > exit_timeout
    assert documents()["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_F6_shared_memory_is_large_enough_and_within_the_limit():
    shared = mounts()["/dev/shm"]["volume"]["emptyDir"]
    limit = gibibytes(container()["resources"]["limits"]["memory"])
    assert shared["medium"] == "Memory" and 1 <= gibibytes(shared["sizeLimit"]) < limit
    assert gibibytes(compose()["services"]["server-cpu"]["shm_size"]) >= 1


def test_models_are_read_only_and_only_scratch_is_writable():
    assert set(mounts()) == {"/models", "/dev/shm", "/tmp"} and len(pod()["spec"]["volumes"]) == 3
    models = mounts()["/models"]
    assert models["readOnly"] and models["volume"]["persistentVolumeClaim"]["readOnly"]
    assert all("emptyDir" in mounts()[path]["volume"] for path in ("/dev/shm", "/tmp"))
    (bind,) = compose()["services"]["server-cpu"]["volumes"]
    assert bind == {"type": "bind", "source": ".", "target": "/models", "read_only": True}
    assert "HOME=/tmp" in last("serve", "ENV")


def test_containers_may_do_little():
    assert container()["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    spec = pod()["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {
        "type": "RuntimeDefault"
    }
    assert spec["automountServiceAccountToken"] is False
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        inline = {entry["source"] for entry in service.get("configs", [])} - {"dashboard"}
        assert service.get("read_only", False) != bool(inline), f"{name}: Compose refuses both together"


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_manifests_fit_the_schema_of_kubernetes(version):
    for kind, document in documents().items():
        if kind not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
    broken = copy.deepcopy(documents()["Deployment"])
    broken["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSecond"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_selectors_find_the_pods_and_ports_have_names():
    labels, by_kind = pod()["metadata"]["labels"], documents()
    specs = {kind: document.get("spec", {}) for kind, document in by_kind.items()}
    selectors = [constraint["labelSelector"] for constraint in pod()["spec"]["topologySpreadConstraints"]]
    selectors += [specs[kind]["selector"] for kind in ("Deployment", "PodDisruptionBudget")]
    selectors += [specs["NetworkPolicy"]["podSelector"], {"matchLabels": specs["Service"]["selector"]}]
    assert all(selector["matchLabels"].items() <= labels.items() for selector in selectors)
    assert {port["targetPort"] for port in specs["Service"]["ports"]} <= {port["name"] for port in container()["ports"]}
    assert pod()["spec"]["serviceAccountName"] == by_kind["ServiceAccount"]["metadata"]["name"]
    target = specs["HorizontalPodAutoscaler"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": by_kind["Deployment"]["metadata"]["name"]}
    assert "replicas" not in specs["Deployment"], "the autoscaler's to say"


def test_prometheus_finds_the_service():
    service, monitor = documents()["Service"], documents()["ServiceMonitor"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]} and endpoint["path"] == "/metrics"
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "cma-clip", "the job of dashboard and alerts"


def test_only_callers_and_prometheus_come_in_and_nothing_goes_out():
    policy = documents()["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == []
    peers = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert {port: [sorted(peer) for peer in allowed] for port, allowed in peers.items()} == {
        "grpc": [["podSelector"]],
        "metrics": [["namespaceSelector", "podSelector"]],
    }


def test_clients_see_every_pod_and_learn_of_new_ones():
    assert documents()["Service"]["spec"]["clusterIP"] == "None"
    assert int(production_flag("grpc-max-connection-age")) > 0


def check_compose(text: str) -> None:
    parsed = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
    parsed.validate()
    parsed.validate_configs()
    parsed.validate_volumes()


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("shm_size: 2gb", "shm_size: much"),
        ("read_only: true\n  cap", "readonly: true\n  cap"),
        ("source: dashboard,", "source: picture,"),
        ("stop_grace_period: 45s", "stop_grace_period: soon"),
    ],
)
def test_compose_file_fits_the_specification(right, wrong):
    text = (DEPLOY / "compose.yaml").read_text()
    check_compose(text)
    assert right in text
    with pytest.raises(ValueError):
        check_compose(text.replace(right, wrong, 1))


def test_compose_services_find_each_other():
    whole, services = compose(), compose()["services"]
    read = {name: yaml.safe_load(config["content"]) for name, config in whole["configs"].items() if "content" in config}
    (alias,) = services["server-cpu"]["networks"]["default"]["aliases"]
    (scrape,) = read["prometheus"]["scrape_configs"]
    assert scrape == {"job_name": "cma-clip", "static_configs": [{"targets": [f"{alias}:8002"]}]}
    (source,) = read["grafana-datasource"]["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    (provider,) = read["grafana-dashboards"]["providers"]
    targets = {entry["source"]: Path(entry["target"]) for entry in services["grafana"]["configs"]}
    assert Path(provider["options"]["path"]) == targets["dashboard"].parent
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == str(targets["dashboard"]) and (DEPLOY / whole["configs"]["dashboard"]["file"]).is_file()
    build = services["server-gpu"]["build"]
    assert build["target"] in stages() and (DEPLOY / build["context"] / "Dockerfile").is_file()


def test_R5_training_container_passes_sigterm_on_and_waits_for_the_rank(tmp_path):
    """The launcher ends at once, its rank needs a moment to save. The script is the one in the Dockerfile."""
    (copied,) = [arguments for name, arguments in stages()["train"] if name == "COPY" and "<<" in arguments]
    target, script = copied.split("\n", 1)
    assert Path(target.split()[-1]).name == json.loads(last("train", "ENTRYPOINT"))[0]
    entry, launcher, rank = (tmp_path / name for name in ("entry", "deepspeed", "rank"))
    entry.write_text(script + "\n")
    rank.write_text(
        "#!/bin/bash\ntrap 'sleep 1; echo step 7 > saved; exit' TERM\ntouch ready\nwhile :; do sleep 0.1; done\n"
    )
    launcher.write_text('#!/bin/bash\n[ "$1" = train/main.py ] || exit 9\n./rank &\nwait\n')
    for file in (entry, launcher, rank):
        file.chmod(0o755)
    process = subprocess.Popen([entry, "train/main.py"], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        assert process.wait(20) == 128 + 15
        assert (tmp_path / "saved").read_text() == "step 7\n", "it ended before its rank had saved"
    finally:
        process.kill()

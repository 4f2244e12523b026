"""Dashboard, alerts and autoscaling rule: each expression parses and asks for metrics and labels that really exist."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import promql_parser as promql
import pytest
import tritonclient.grpc as triton
import yaml
from container_files import DEPLOY, ROOT, documents, production_flag
from server_process import ServerProcess

from client import Classifier, ClassifierError
from client.canary import probe
from model.bundle import load_bundle
from train.data import IN_ORDER, ProductDataset
from train.predict import Predictions, answers_for

SUMMARIES = "--metrics-config=summary_latencies=true"
HAND_OVER_S = 1.0  # serve.step_metrics
MOST_ROWS = 64  # deploy/decode/config.pbtxt
# Added by Prometheus to whatever it reads: job and instance, and by Kubernetes's discovery the rest.
TARGET = {"job", "instance", "namespace", "pod"}
# What only a GPU shows, by Triton's documentation of its metrics; and what is not the server's at all.
ON_GPU = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "nv_gpu_power_usage"}
OF_OTHERS = {
    "up": set(),  # Prometheus
    "kube_pod_status_ready": {"condition"},  # kube-state-metrics
    "kube_pod_start_time": set(),
    "container_memory_working_set_bytes": {"container"},  # kubelet, cAdvisor
    "container_memory_rss": {"container"},
    "container_spec_memory_limit_bytes": {"container"},
    "prober_probe_total": {"probe_type", "result", "container"},  # kubelet, probes
}
# The end of the test matrix: what must wake somebody up, and which alerts do.
ALERT_SET = {
    "not ready for a minute": {"CmaClipNotReady", "CmaClipDown"},
    "failure ratio by composing model": {"CmaClipStepFails", "CmaClipUnforeseenErrors"},
    "queue time above half its aim": {"CmaClipQueueSlow"},
    "pending requests at the limit": {"CmaClipQueueFull"},
    "decode errors above three times the usual": {"CmaClipImagesRefused"},
    "label mix or low confidence drifts": {"CmaClipLabelMixDrifts", "CmaClipConfidenceDrifts"},
    "answers are not those of validation": {"CmaClipPopulationShifts"},
    "shared memory or resident memory rises": {"CmaClipMemoryGrows"},
    "canary fails": {"CmaClipCanaryFails"},
}
DASHBOARD = json.loads((DEPLOY / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
GROUPS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["spec"]["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
(ADAPTER,) = yaml.safe_load(documents()["ConfigMap"]["data"]["rules.yaml"])


def plain(expression: str) -> str:
    """Without the placeholders of Grafana and of prometheus-adapter."""
    filled = expression.replace("<<.LabelMatchers>>", 'pod="a"').replace("<<.GroupBy>>", "pod")
    return re.sub(r"\$(\w+)", "a", filled.replace("$__rate_interval", "5m"))


EXPRESSIONS = {
    **{f"panel {panel['title']}, {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]},
    **{f"alert {name}": rule["expr"] for name, rule in ALERTS.items()},
    **{f"record {name}": expression for name, expression in RECORDED.items()},
    "adapter": ADAPTER["metricsQuery"],
    "adapter, series": ADAPTER["seriesQuery"],
}


def nodes(expression: Any) -> Iterator[Any]:
    """An expression and all parts of it."""
    yield expression
    children = [getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "vector_selector", "param")]
    for child in [*children, *(getattr(expression, "args", None) or [])]:
        if isinstance(child, promql.Expr):
            yield from nodes(child)


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Each metric asked for, with the labels that it is filtered by."""
    found = [node for node in nodes(promql.parse(plain(expression))) if isinstance(node, promql.VectorSelector)]
    return [(node.name, {matcher.name for matcher in node.matchers.matchers}) for node in found]


def grouped_by(expression: str) -> set[str]:
    """Labels of every `by (…)`."""
    return {label.strip() for group in re.findall(r"\bby \((.*?)\)", plain(expression)) for label in group.split(",")}


def metrics_page(process: ServerProcess) -> list[tuple[str, dict[str, str], float]]:
    """Each series: its metric, labels and value, after the steps have handed over."""
    time.sleep(1.5 * HAND_OVER_S)
    with urllib.request.urlopen(process.metrics_url, timeout=10) as answer:
        found = re.findall(r"^(\w+)(?:{(.*)})? (\S+)$", answer.read().decode(), re.MULTILINE)
    return [(name, dict(re.findall(r'(\w+)="(.*?)"', labels)), float(value)) for name, labels, value in found]


@pytest.fixture(scope="module")
def counting(server, products, tmp_path_factory) -> Iterator[ServerProcess]:
    """A real server that has answered, refused and counted."""
    with ServerProcess(server.repository, tmp_path_factory.mktemp("metrics") / "server.log", SUMMARIES) as process:
        with Classifier(process.url, timeout_s=30) as classifier:
            classifier.classify(*products[0])
            with pytest.raises(ClassifierError):
                classifier.classify("a title", b"no picture")
        yield process


@pytest.fixture(scope="module")
def validation(bundle_dir, data) -> Predictions:
    """What the engine says of the products that the bundle's reference counts."""
    bundle = load_bundle(bundle_dir)
    return answers_for(
        bundle, ProductDataset(data, "validation", bundle.config.preprocess, bundle.tokenizer, IN_ORDER), 64
    )


@pytest.fixture(scope="module")
def stable(counting, validation) -> list[tuple[str, dict[str, str], float]]:
    """The metrics page after the products of validation came again and again."""
    decode(counting, validation, range(len(validation.logits_NC)), times=25)
    return metrics_page(counting)


@pytest.fixture(scope="module")
def exported(stable) -> dict[str, set[str]]:
    """Metric -> labels."""
    found: dict[str, set[str]] = {}
    for name, labels, _ in stable:
        found.setdefault(name, set()).update(labels)
    return found


def decode(process: ServerProcess, said: Predictions, places: Sequence[int], times: int) -> None:
    """Have the server's last step answer what the engine said of these products, so many times."""
    arrays = [tensor[list(places) * times].numpy() for tensor in (said.logits_NC, said.text_share_NK, said.present_N2)]
    with triton.InferenceServerClient(process.url) as client:
        for first in range(0, len(arrays[0]), MOST_ROWS):
            inputs = []
            for name, array in zip(("logits", "text_share", "present"), arrays, strict=True):
                rows = np.ascontiguousarray(array[first : first + MOST_ROWS])
                inputs.append(triton.InferInput(name, list(rows.shape), "BOOL" if name == "present" else "FP32"))
                inputs[-1].set_data_from_numpy(rows)
            client.infer("decode", inputs)


def indices(page: list[tuple[str, dict[str, str], float]]) -> dict[tuple[str, str], float]:
    """(task, kind) -> population stability index."""
    return {
        (labels["task"], labels["kind"]): value
        for name, labels, value in page
        if name == "cma_clip_population_stability_index"
    }


# No ordinary request provokes these; the counters are those of serve.step_metrics.
OF_FAULTS = {
    "cma_clip_incidents_total": {"step"},
    "cma_clip_not_finite_total": set(),
    "cma_clip_not_counted_total": {"counter"},
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression_parses(name):
    assert selectors(EXPRESSIONS[name])


def test_a_broken_expression_does_not_parse():
    with pytest.raises(ValueError):
        selectors("sum(rate(up[5m])")


def test_every_metric_and_label_exists(exported):
    known = exported | OF_OTHERS | {name: {"gpu_uuid"} for name in ON_GPU} | OF_FAULTS
    known |= {name: grouped_by(expression) for name, expression in RECORDED.items()}
    for where, expression in EXPRESSIONS.items():
        asked = selectors(expression)
        for metric, labels in asked:
            assert metric in known, f"{where}: nothing exports {metric}"
            assert labels <= known[metric] | TARGET, f"{where}: {metric} has {sorted(known[metric])}"
        reach = set().union(TARGET, *(known[metric] for metric, _ in asked))
        assert grouped_by(expression) <= reach, where


def test_our_counters_are_all_shown(exported):
    ours = set(re.findall(r'"(cma_clip_\w+)":', (ROOT / "serve/step_metrics.py").read_text()))
    shown = {metric for panel in PANELS for target in panel["targets"] for metric, _ in selectors(target["expr"])}
    assert ours == {name for name in exported if name.startswith("cma_clip_")} | OF_FAULTS.keys()
    assert ours <= shown


def test_validation_products_are_as_expected_and_one_kind_alone_is_not(counting, stable, validation, bundle_dir):
    tasks = load_bundle(bundle_dir).config.tasks
    before = indices(stable)
    assert before.keys() == {(task.name, kind) for task in tasks for kind in ("labels", "scores", "text_share")}
    assert max(before.values()) < 0.01
    scores = tasks.scores(validation.logits_NC.numpy())
    surest = int(next(iter(tasks.split(scores)))[1].max(axis=1).argmax())
    decode(counting, validation, [surest], times=3000)
    assert max(indices(metrics_page(counting)).values()) > 0.2


def test_the_canary_is_no_product_that_counts(counting, stable):
    def answered() -> list[float]:
        return [value for name, _, value in metrics_page(counting) if name == "cma_clip_text_share_count"]

    before = answered()
    assert probe(counting.url).good
    assert answered() == before and all(before)


def test_a_refusal_is_a_success_of_its_step_and_two_failures_of_the_ensemble(server, exported):
    """What dashboard and alerts reckon with; if a newer server counts otherwise, they must change."""
    (port,) = [argument.split("=")[1] for argument in server.command if argument.startswith("--metrics-port")]

    def count(metric: str, model: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(int(value) for value in re.findall(rf'^{metric}{{model="{model}".*}} (\d+)$', text, re.MULTILINE))

    asked = [("nv_inference_request_success", "preprocess"), ("nv_inference_request_failure", "preprocess")]
    asked += [("nv_inference_request_failure", "cma_clip"), ("nv_inference_request_success", "cma_clip")]
    before = [count(*each) for each in asked]
    with Classifier(server.url, timeout_s=30) as classifier, pytest.raises(ClassifierError):
        classifier.classify("a title", b"no picture")
    assert [count(*each) - value for each, value in zip(asked, before, strict=True)] == [1, 0, 2, 0]


def test_production_publishes_the_quantiles_that_the_dashboard_shows():
    assert f"--metrics-config={production_flag('metrics-config')}" == SUMMARIES


def test_alerts_are_those_of_the_test_matrix():
    assert set().union(*ALERT_SET.values()) == set(ALERTS) and len(ALERTS) == sum(map(len, ALERT_SET.values()))
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning") and re.fullmatch(r"\d+m", rule["for"]), name
        assert set(rule["annotations"]) == {"summary", "description"}, name
        labels = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert labels <= grouped_by(rule["expr"]) | TARGET | {"model", "reason", "task", "step"}, name


def test_recorded_series_are_used():
    used = {metric for rule in ALERTS.values() for metric, _ in selectors(rule["expr"])}
    assert {metric for metric in used if ":" in metric} == set(RECORDED)


def test_autoscaler_asks_for_what_the_adapter_offers():
    (metric,) = documents()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["type"] == "Pods" and metric["pods"]["metric"]["name"] == ADAPTER["name"]["as"]
    assert ADAPTER["resources"]["overrides"] == {name: {"resource": name} for name in ("namespace", "pod")}
    threshold = float(re.search(r"> (\d+)$", ALERTS["CmaClipQueueSlow"]["expr"])[1])
    assert float(metric["pods"]["target"]["averageValue"]) < threshold, "scale before somebody is called"


def test_dashboard_is_one_that_grafana_loads():
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] and DASHBOARD["title"]
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    used = set(re.findall(r"\$(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
    assert used <= variables.keys()
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["datasource"] == source and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == source
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= grouped_by(target["expr"]) | TARGET, panel["title"]


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        box = panel["gridPos"]
        cells = {(box["x"] + x, box["y"] + y) for x in range(box["w"]) for y in range(box["h"])}
        assert not cells & taken and box["x"] + box["w"] <= 24, panel["title"]
        taken |= cells

"""`kernels: auto`: what it takes, when it measures, and what it says. Devices and clocks are the tests' own."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from wrong_kernels import CASE, wrong_gradient

from kernels import agreement, choice
from kernels.agreement import Case, Heads
from kernels.modality_heads import modality_heads

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Clock:
    """Says that the fused kernels take `fused` ms and the reference 2."""

    def __init__(self, fused: float) -> None:
        self.fused, self.asked = fused, 0

    def __call__(self, work: Callable[[], Any]) -> float:
        self.asked += 1
        work()
        return self.fused if self.asked % 2 else 2.0


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RANK", raising=False)
    caplog.set_level(logging.INFO, "kernels.choice")


class Process:
    """One that has decided nothing yet; by default the reference poses as the kernels, whose interpreter is slow."""

    def __init__(self, fused: float = 1.0, heads: Heads = agreement.plain, gpu: str = "GPU 9.0") -> None:
        self.clock = Clock(fused)
        self.own = {
            "DECIDED": defaultdict(dict),
            "modality_heads": heads,
            "circumstances": lambda device: gpu,
            "median_milliseconds": self.clock,
        }

    def begin(self, patch: pytest.MonkeyPatch) -> Process:
        for name, value in self.own.items():
            patch.setattr(choice, name, value)
        return self

    def takes(self, device: torch.device, case: Case, batch: int | None) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            self.begin(patch)
            return choice.decide(device, case, batch).kernels == "faster"


@pytest.mark.parametrize(
    ("milliseconds", "taken", "line"),
    [
        (1.5, True, "kernels: auto takes the fused kernels: 1.500 ms against 2.000 ms of the reference (width 128,"),
        (2.5, False, "kernels: auto takes the reference, the fused kernels are slower: 2.500 ms against 2.000 ms of"),
    ],
)
def test_kernels_that_agree_are_taken_where_they_win(caplog, milliseconds, taken, line):
    chosen = Process(milliseconds, modality_heads)
    assert [chosen.takes(DEVICE, CASE, 8) for _ in range(3)] == 3 * [taken]
    assert chosen.clock.asked == 2
    (record,) = caplog.records
    assert record.getMessage().startswith(line) and record.levelno == logging.INFO


def test_a_kernel_with_one_wrong_gradient_is_refused_by_name_and_not_timed(caplog):
    chosen = Process(heads=wrong_gradient("w2"))
    assert not chosen.takes(DEVICE, CASE, 8) and chosen.clock.asked == 0
    (record,) = caplog.records
    assert "takes the reference, the fused kernels are wrong: gradient of w2 wrong by" in record.getMessage()
    assert record.levelno == logging.WARNING
    assert chosen.takes(DEVICE, CASE._replace(gradients=False), 8), "evaluation needs no gradient"


def failing(error: Exception) -> Callable[..., Any]:
    def heads(*inputs: Any, **others: Any) -> Any:
        raise error

    return heads


def test_kernels_that_raise_are_named_and_tried_again_only_by_the_next_process(caplog):
    error = RuntimeError("out of resources:\n shared memory " + 1000 * "x ")
    first = Process(heads=failing(error))
    assert not first.takes(DEVICE, CASE, 8) and not first.takes(DEVICE, CASE, 8)
    (record,) = caplog.records
    assert "the fused kernels are failing: RuntimeError: out of resources: shared memory x" in record.getMessage()
    assert record.levelno == logging.WARNING and len(record.getMessage()) < 700
    assert not first.takes(DEVICE, CASE, None), "nor does a traced graph of this process take them"
    assert not choice.file().exists() and Process().takes(DEVICE, CASE, 8)


def test_what_ends_the_process_is_not_tried_again(caplog):
    assert not Process(heads=failing(torch.AcceleratorError("illegal memory access"))).takes(DEVICE, CASE, 8)
    second = Process()
    assert not second.takes(DEVICE, CASE, 8) and second.clock.asked == 0
    assert "failing: AcceleratorError: illegal memory access" in caplog.records[1].getMessage()


def test_a_gpu_that_cannot_be_asked_computes_by_the_reference(caplog):
    chosen = Process()
    chosen.own["circumstances"] = failing(AssertionError("no driver"))
    assert not chosen.takes(DEVICE, CASE, 8) and chosen.clock.asked == 0
    assert "failing: AssertionError: no driver" in caplog.text


def test_both_ends_of_the_range_of_batches_are_compared(monkeypatch):
    compared = []
    monkeypatch.setattr(choice.agreement, "fault", lambda heads, case, batch, device: compared.append(batch))
    for batch in (1, 2, 8, 64):
        Process().takes(DEVICE, CASE, batch)
    assert compared == [1, 2, 5, 8, 33, 64]


def test_another_process_remembers_and_other_circumstances_are_measured_anew(caplog):
    assert Process(1.0).takes(DEVICE, CASE, 8)
    later = Process(9.0)
    assert later.takes(DEVICE, CASE, 8) and later.clock.asked == 0
    assert caplog.records[1].getMessage() == caplog.records[0].getMessage()
    others = [(CASE, 16), (CASE, 80), (CASE._replace(gradients=False), 8), (CASE._replace(labels=(17, 3)), 8)]
    assert not any(Process(9.0).takes(DEVICE, *other) for other in others)
    assert not Process(9.0, gpu="GPU 9.0, torch of tomorrow").takes(DEVICE, CASE, 8)


def test_only_the_first_rank_tells_what_was_expected_and_each_what_was_not(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    assert Process().takes(DEVICE, CASE, 8) and not caplog.records
    Process(heads=wrong_gradient("b1"), gpu="other").takes(DEVICE, CASE, 8)
    assert "gradient of b1" in caplog.text


def test_nothing_is_measured_while_a_graph_is_captured(monkeypatch, caplog):
    chosen = Process()
    monkeypatch.setattr(choice, "is_capturing", lambda device: True)
    assert not chosen.takes(DEVICE, CASE, 8) and chosen.clock.asked == 0
    assert "the fused kernels are unmeasured: no call came before torch traced or captured" in caplog.text
    monkeypatch.setattr(choice, "is_capturing", lambda device: False)
    assert chosen.takes(DEVICE, CASE, 8), "what was taken in the meantime is not remembered"
    monkeypatch.setattr(choice, "is_capturing", lambda device: True)
    assert chosen.takes(DEVICE, CASE, 8) and Process().takes(DEVICE, CASE, 8)


def tensors(batch: int) -> tuple[Any, ...]:
    return torch.zeros(batch, 128), torch.zeros(2, 128), torch.zeros(2, 128, 128), (3, 17)


def test_batches_are_rounded_up_to_powers_of_two(monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "decide", lambda device, case, batch: asked.append(batch) or choice.UNMEASURED)
    for batch in (0, 1, 2, 3, 4, 5, 64, 65, 1000):
        choice.takes_kernels(*tensors(batch))
    assert asked == [1, 1, 2, 4, 4, 8, 64, 128, 1024]


class Asks(torch.nn.Module):
    """One more where the kernels are taken."""

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        _, *others = tensors(1)
        return text + 1 if choice.takes_kernels(text, *others) else text.clone()


def traced(way: str) -> Callable[[torch.Tensor], torch.Tensor]:
    torch.compiler.reset()
    if way == "compile":
        return torch.compile(Asks(), backend="eager", fullgraph=True)
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(Asks(), (torch.zeros(8, 128),), dynamic_shapes=({0: batch},)).module()


@pytest.mark.parametrize("remembered", ["here", "by another process", "here alone"])
@pytest.mark.parametrize("way", ["compile", "export"])
def test_a_traced_graph_takes_the_kernels_only_if_they_won_at_every_batch(
    monkeypatch, way, remembered, caplog, tmp_path
):
    if remembered == "here alone":
        (tmp_path / "cma-clip").write_text("a file where the directory should be")
    process = Process().begin(monkeypatch)
    assert not traced(way)(torch.zeros(8, 128)).any() and process.clock.asked == 0
    assert caplog.text.count("unmeasured") == 1
    assert all(choice.takes_kernels(*tensors(batch)) for batch in (3, 8))
    if remembered == "by another process":
        process = Process().begin(monkeypatch)
    assert traced(way)(torch.zeros(5, 128)).all()
    process.clock.fused = 9.0
    assert not choice.takes_kernels(*tensors(64)) and choice.takes_kernels(*tensors(8))
    assert not traced(way)(torch.zeros(5, 128)).any()


def test_sources_and_precision_are_part_of_what_a_verdict_is_on(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="H", major=9, minor=0))
    before = choice.circumstances(DEVICE)
    assert before.startswith(f"H 9.0, torch {torch.__version__}, triton ") and before == choice.circumstances(DEVICE)
    with monkeypatch.context() as faster:
        faster.setattr(torch, "get_float32_matmul_precision", lambda: "high")
        assert choice.circumstances(DEVICE) == before.replace("float32 highest", "float32 high") != before
    (tmp_path / "choice.py").write_text("another kernel")
    monkeypatch.setattr(choice, "__file__", str(tmp_path / "choice.py"))
    assert choice.circumstances(DEVICE) != before


@pytest.mark.alone
def test_the_clock_gives_the_median_of_calls_in_milliseconds():
    pauses = iter([0.2] + 1000 * [0.002])
    assert 2.0 < choice.median_milliseconds(lambda: time.sleep(next(pauses))) < 100

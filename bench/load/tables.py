"""Figures of a load as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.harness import number
from cma_clip.tables import markdown


def sweep_table(result: dict[str, Any]) -> str:
    """A line per number of callers; a step's cell is queue + compute in ms, and its mean batch."""
    rows = result["rows"]
    head = ["callers", "p50 ms", "p99 ms", "requests/s", "failures"]
    head += [f"{step} queue + compute ms (batch)" for step in rows[0]["steps"]]
    lines = []
    for row in rows:
        steps = row["steps"].values()
        cells = [f"{number(s['queue_ms'])} + {number(s['compute_ms'])} ({s['batch']:.1f})" for s in steps]
        lines.append([row["concurrency"], *_numbers(row, "p50_ms", "p99_ms", "throughput"), _failures(row), *cells])
    return markdown(head, lines)


def overload_table(result: dict[str, Any]) -> str:
    head = ["load", "requests/s sent", "answered/s", "p50 ms", "p99 ms", "failures", "generator late p99 ms"]
    lines = []
    for name, share in (("before", 0.5), ("during", result["factor"]), ("after", 0.5)):
        figures = result[name]
        cells = [f"{name} ({share:g} x capacity)", number(share * result["capacity"])]
        cells += _numbers(figures, "throughput", "p50_ms", "p99_ms")
        lines.append([*cells, _failures(figures), *_numbers(figures, "late_p99_ms")])
    refused = [[name, r["count"], *_numbers(r, "p50_ms", "p99_ms")] for name, r in result["rejected"].items()]
    recovered = "not within the limit" if result["recovered_s"] is None else f"after {result['recovered_s']:g} s"
    share = result["during"]["throughput"] / result["capacity"]
    first = f"capacity {number(result['capacity'])} requests/s, of which {share:.2f} go on; normal again {recovered}\n"
    parts = [first, markdown(head, lines)]
    parts.append(markdown(["refused because", "count", "p50 ms", "p99 ms from sending"], refused))
    return "\n".join(parts)


def soak_table(result: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {expected}" for expected, count in sorted(result["expected"].items()))
    head = f"{result['sent']} requests in {result['seconds']:.0f} s ({number(result['throughput'])} OK/s): {counts}"
    wrong = [f"expected {expected}, got {got}: {count} times" for expected, got, count in result["unexpected"]]
    rows = [[name, *_numbers(grown, "last", "growth", "allowed")] for name, grown in result["grown"].items()]
    table = markdown(["watched", "at the end", "growth after warm-up", "allowed"], rows)
    return "\n".join([head, *wrong, *([result["fault"]] if result["fault"] else []), "", table])


def publish_table(result: dict[str, Any]) -> str:
    rows = []
    for name in ("at rest", "publish", "rollback"):
        figures, seconds = result[name], result["seconds"].get(name, [])
        took = f"{number(min(seconds))} to {number(max(seconds))}" if seconds else "-"
        cells = [name, len(seconds) or "-", took, figures["sent"], *_numbers(figures, "p50_ms", "p99_ms")]
        rows.append([*cells, _failures(figures)])
    head = ["while", "times", "seconds each", "requests", "p50 ms", "p99 ms", "failures"]
    said = ", ".join(f"{count} of {name}" for name, count in result["answers"].items())
    first = f"{number(result['rate'])} requests/s; answers of label sets: {said}; mixed {result['mixed']}; "
    return "\n".join([f"{first}furthest from torch {result['furthest']:.1e}", "", markdown(head, rows)])


def compare_table(result: dict[str, Any]) -> str:
    first, second = result["sides"]
    head = ["callers", *(f"{name} {what}" for name in (first, second) for what in ("requests/s", "p50 ms"))]
    head += [f"{first} / {second}, median of rounds (least to most)", "p50 more, ms"]
    lines = []
    for row in result["rows"]:
        cells = [cell for name in (first, second) for cell in _numbers(row[name], "throughput", "p50_ms")]
        ratio = f"{row['ratio']:.3f} ({min(row['ratios']):.3f} to {max(row['ratios']):.3f})"
        lines.append([row["concurrency"], *cells, ratio, number(row["p50_more_ms"])])
    return markdown(head, lines)


def _numbers(figures: dict[str, Any], *names: str) -> Sequence[str]:
    return [number(figures[name]) for name in names]


def _failures(figures: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in figures["failures"].items()) or "0"

"""A figure for each kind of load."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

MEGABYTE = 1 << 20
OK_COLOR, REFUSED_COLOR = "#4477aa", "#cc6677"


def draw_sweep(result: dict[str, Any], figure: Figure) -> None:
    """Latency and throughput over the number of callers; time per step, stacked."""
    figure.set_size_inches(14, 4)
    latency, rate, stack = figure.subplots(1, 3)
    rows = result["rows"]
    callers = [row["concurrency"] for row in rows]
    for key, label in (("p50_ms", "p50"), ("p99_ms", "p99")):
        latency.loglog(callers, [row[key] or float("nan") for row in rows], marker=".", label=label)
    latency.set(xlabel="callers", ylabel="ms")
    latency.legend()
    rate.semilogx(callers, [row["throughput"] for row in rows], marker=".")
    rate.set(xlabel="callers", ylabel="requests/s")
    _from_zero(rate)
    for axes in (latency, rate):
        axes.set_xticks(callers, map(str, callers))
        axes.minorticks_off()
    places, bottom = range(len(rows)), [0.0] * len(rows)
    for index, step in enumerate(rows[0]["steps"]):
        for kind, shade in (("queue", 0.4), ("compute", 1.0)):
            heights = [row["steps"][step][f"{kind}_ms"] for row in rows]
            stack.bar(places, heights, bottom=bottom, color=f"C{index}", alpha=shade, label=f"{step} {kind}")
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    stack.set_xticks(places, map(str, callers))
    stack.set(xlabel="callers", ylabel="ms of a call")
    stack.legend(fontsize=7)


def draw_publish(result: dict[str, Any], figure: Figure) -> None:
    """Latency over time, a band for each command."""
    axes = figure.subplots()
    axes.semilogy(
        *zip(*[(due, ms) for due, ms, _ in result["timeline"]], strict=True), ".", markersize=2, color=OK_COLOR
    )
    for name, start_s, end_s in result["actions"]:
        axes.axvspan(start_s, end_s, color=REFUSED_COLOR if name == "publish" else "#ddcc77", alpha=0.3)
    axes.set(xlabel="due at, s", ylabel="latency, ms", title="publish (red) and --rollback (yellow)")


def draw_overload(result: dict[str, Any], figure: Figure) -> None:
    """Latency of each call during the overload over the time at which it was due."""
    axes = figure.subplots()
    for refused, color, label in ((False, OK_COLOR, "answered"), (True, REFUSED_COLOR, "refused")):
        calls = [(due, ms) for due, ms, reason in result["timeline"] if (reason != "OK") == refused]
        if calls:
            axes.semilogy(*zip(*calls, strict=True), ".", markersize=2, color=color, label=label)
    axes.set(xlabel="due at, s", ylabel="latency, ms", title=f"{result['factor']:g} times capacity")
    axes.legend(markerscale=5)


def draw_soak(result: dict[str, Any], figure: Figure) -> None:
    """What was watched, over time."""
    figure.set_size_inches(12, 6)
    panels = figure.subplots(2, 3, sharex=True)
    for axes, name in zip(panels.flat, ("rss", "shm", "fds", "threads"), strict=False):
        scale = MEGABYTE if name in ("rss", "shm") else 1
        axes.plot(result["at_s"], [value / scale for value in result[name]])
        axes.set_title(f"{name}, MB" if scale > 1 else name)
        _from_zero(axes)
    times = [part["at_s"] for part in result["windows"]]
    for axes, key in zip(panels.flat[4:], ("p50_ms", "p99_ms"), strict=True):
        axes.plot(times, [part[key] or float("nan") for part in result["windows"]])
        axes.set(title=key.replace("_", ", "), xlabel="s")
        _from_zero(axes)


def draw_compare(result: dict[str, Any], figure: Figure) -> None:
    """The ratio of each round, by number of callers."""
    axes, rows = figure.subplots(), result["rows"]
    axes.boxplot([row["ratios"] for row in rows], tick_labels=[str(row["concurrency"]) for row in rows])
    axes.axhline(1, color="grey", linewidth=0.5)
    axes.set(xlabel="callers", ylabel="throughput, " + " / ".join(result["sides"]))
    _from_zero(axes)


def _from_zero(axes: Any) -> None:
    axes.set_ylim(0, 1.1 * axes.dataLim.ymax)

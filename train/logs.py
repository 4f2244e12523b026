"""What a run says while it works: JSON lines, TensorBoard, rejects, and a line an epoch for people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cma_clip.files import write_atomically
from train.metrics import format_table


class RunLog:
    """Appends to `log.jsonl`, `tensorboard/` and `rejects-rankN.txt` of a stage.

    Args:
        rank: all but the first only report rejects.
        updates_done: where the run goes on; what a killed run logged beyond its checkpoint is dropped.
    """

    def __init__(self, stage_dir: Path, rank: int, updates_done: int) -> None:
        self.stage_dir, self.rank, self.enabled = stage_dir, rank, rank == 0
        self.reported: set[str] = set()
        if self.enabled:
            path = stage_dir / "log.jsonl"
            kept = [line for line in _lines(path) if json.loads(line)["update"] <= updates_done]
            write_atomically(path, "".join(kept))
            self.lines = path.open("a", buffering=1)
            self.board = SummaryWriter(str(stage_dir / "tensorboard"), purge_step=updates_done + 1)

    def update(self, update: int, loss: float, parts: dict[str, float], learning_rate: float) -> None:
        if self.enabled:
            self._write(update, "train", {"loss": loss, "learning_rate": learning_rate, **parts})

    def validation(self, update: int, epoch: int, loss: float, metrics: dict[str, Any], is_best: bool) -> None:
        if not self.enabled:
            return
        flat = {f"{task}/{name}": value for task, values in metrics.items() for name, value in values.items()}
        self._write(update, "validation", {"epoch": epoch, "loss": loss, "best": is_best, **flat})
        mark = " (best so far, kept)" if is_best else ""
        tqdm.write(f"epoch {epoch}: validation loss {loss:.4f}{mark}")
        if metrics:
            tqdm.write(format_table(metrics))

    def rejects(self, problems: list[str]) -> int:
        """Note products that could not be read; returns how many there are on this rank."""
        new = sorted(set(problems) - self.reported)
        if new:
            self.reported.update(new)
            with (self.stage_dir / f"rejects-rank{self.rank}.txt").open("a") as file:
                file.writelines(f"{problem}\n" for problem in new)
        return len(self.reported)

    def close(self) -> None:
        if self.enabled:
            self.lines.close()
            self.board.close()

    def _write(self, update: int, kind: str, values: dict[str, Any]) -> None:
        self.lines.write(json.dumps({"time": round(time.time(), 3), "kind": kind, "update": update, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.board.add_scalar(f"{kind}/{name}", value, update)


def _lines(path: Path) -> list[str]:
    """Whole lines; a kill may have cut the last one."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]

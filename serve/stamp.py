"""What an engine file was built from and for: written beside it by export, checked before it serves. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cma_clip.files import write_atomically
from cma_clip.settings import StrictModel, read_json


class EngineStamp(StrictModel):
    """The content of `FILE.json` beside the engine FILE.

    Attributes:
        runtime: `openvino`, `onnxruntime`, `torch` or `tensorrt`.
        precision: of the matrix products: `f32`, `bf16`, `f16` or `int8`.
        bundle_sha256: of the deploy/bundle.json that it was exported with.
        versions: library -> version that must be the same where the engine is loaded.
        gpu: name of the GPU that it was built on, None if any machine will do.
        compute_capability: that GPU's, such as `9.0`.
        parity: how far its answers are from torch's (serve.export.parity).
    """

    runtime: str
    precision: str
    bundle_sha256: str
    versions: dict[str, str] = {}
    gpu: str | None = None
    compute_capability: str | None = None
    parity: dict[str, Any] = {}

    @classmethod
    def read(cls, engine: Path) -> EngineStamp:
        """The stamp of an engine file.

        Raises:
            ValueError: engine or stamp is missing, or the stamp cannot be read.
        """
        if not engine.is_file():
            raise ValueError(f"{engine}: no such file")
        return read_json(cls, stamp_path(engine))

    def write(self, engine: Path) -> None:
        write_atomically(stamp_path(engine), self.model_dump_json(indent=2) + "\n")

    def mismatch(
        self, engine: Path, bundle_sha256: str, versions: Mapping[str, str], compute_capability: str | None
    ) -> str | None:
        """Why the engine must not be loaded here, None if it may be.

        Args:
            engine: its file, DEPLOY/engine/1/FILE.
            bundle_sha256: of the bundle.json that is to be served.
            versions: library -> version on this machine; those that the stamp does not name do not matter.
            compute_capability: of this machine's GPU, None without one.
        Returns:
            one line with both sides and the command that builds it anew.
        """
        rebuild = f"python -m serve.export BUNDLE --deploy {engine.parents[2]} --runtime {self.runtime}"
        if bundle_sha256 != self.bundle_sha256:
            return f"{engine}: was not exported together with bundle.json; rebuild: {rebuild}"
        for library, version in self.versions.items():
            here = versions.get(library, "none")
            if here != version:
                return f"{engine}: built with {library} {version}, here is {here}; rebuild: {rebuild}"
        if self.compute_capability not in (None, compute_capability):
            built = f"{self.gpu} (compute capability {self.compute_capability})"
            return f"{engine}: built for {built}, here is {compute_capability or 'no GPU'}; rebuild: {rebuild}"
        return None


def stamp_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")

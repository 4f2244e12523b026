"""What an engine file was built from and for: written beside it by export, checked before it serves. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cma_clip.files import file_sha256, write_atomically
from cma_clip.settings import StrictModel, read_json


class EngineStamp(StrictModel):
    """The content of `FILE.json` beside the engine FILE.

    Attributes:
        runtime: `openvino`, `onnxruntime`, `torch` or `tensorrt`.
        precision: of the matrix products: `f32`, `bf16`, `f16` or `int8`.
        bundle_sha256: of the deploy/bundle.json that it was exported with.
        engine_sha256: of the engine file; taken by `write`.
        versions: library -> version that must be the same where the engine is loaded.
        gpu: name of the GPU that it was built on, None if any machine will do.
        compute_capability: that GPU's, such as `9.0`.
        parity: how far its answers are from torch's (serve.export.parity).
    """

    runtime: str
    precision: str
    bundle_sha256: str
    engine_sha256: str = ""
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
        """Stamp the engine file as it is now."""
        stamp = self.model_copy(update={"engine_sha256": file_sha256(engine)})
        write_atomically(stamp_path(engine), stamp.model_dump_json(indent=2) + "\n")

    def damage(self, engine: Path) -> str | None:
        """Why the engine file is not the one that was stamped, None if it is: one line with the command that helps."""
        here = file_sha256(engine)
        if here == self.engine_sha256:
            return None
        stamped = f"stamped with sha256 {self.engine_sha256[:12]}" if self.engine_sha256 else "stamped without a sha256"
        return (
            f"{engine}: is damaged or not its stamp's: {stamped}, it has {here[:12]}; rebuild: {self._rebuild(engine)}"
        )

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
        rebuild = self._rebuild(engine)
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

    def _rebuild(self, engine: Path) -> str:
        return f"python -m serve.export BUNDLE --deploy {engine.parents[2]} --runtime {self.runtime}"


def stamp_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")

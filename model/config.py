"""What a network is made of, as data: preprocessing, layers, and a bundle of all; JSON both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cma_clip.files import file_sha256
from cma_clip.settings import StrictModel, read_json
from model.image_limits import IMAGE_LIMITS, ImageLimit
from model.networks import check_architecture
from model.reference import Reference
from model.tasks import TaskSet


class PreprocessConfig(StrictModel):
    """How bytes become tensors, and what is refused. Defaults are CLIP's.

    Attributes:
        image_size: side of the square image, pixels.
        mean, std: per channel, for pixel values in 0..1; applied inside the network's graph.
        context_length: most token ids a title may have, start and end token included.
        title_lengths: a batch is padded to the smallest of these that holds its longest title.
        vocab_size: token ids of the tokenizer; the last two are start and end of text.
        max_pixels, max_image_bytes, max_title_bytes: caps on what one request may cost.
        formats: Pillow format names that may be decoded.
        image_limits: kind of image -> most that it may ask of a decoder; a kind that is left out has its default.
    """

    image_size: int = Field(224, ge=8)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    context_length: int = Field(77, ge=3)
    title_lengths: tuple[int, ...] = (16, 24, 32, 48, 77)
    vocab_size: int = Field(49408, ge=514)
    max_pixels: int = 50_000_000
    max_image_bytes: int = 20_000_000
    max_title_bytes: int = 131_072
    formats: tuple[Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"], ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    image_limits: dict[str, ImageLimit] = IMAGE_LIMITS

    def padded_length(self, longest: int) -> int:
        """The title length that a batch is padded to whose longest title has `longest` ids."""
        return next(length for length in self.title_lengths if length >= longest)

    @field_validator("image_limits", mode="after")
    @classmethod
    def _every_kind_has_a_limit(cls, limits: dict[str, ImageLimit]) -> dict[str, ImageLimit]:
        if unknown := limits.keys() - IMAGE_LIMITS.keys():
            raise ValueError(f"no kind of image {', '.join(sorted(unknown))}; there are {', '.join(IMAGE_LIMITS)}")
        return IMAGE_LIMITS | limits

    @model_validator(mode="after")
    def _lengths_reach_the_context(self) -> PreprocessConfig:
        lengths = self.title_lengths
        if list(lengths) != sorted(set(lengths)) or lengths[-1] != self.context_length:
            raise ValueError(f"title_lengths {lengths} must rise and end with context_length {self.context_length}")
        return self


class ModelConfig(StrictModel):
    """The network (paper, sections 2 and 3.2.1).

    Attributes:
        architecture: `cma_clip`, or one of the rivals of Tables 1 to 3 over the same towers (model.networks).
        clip: open_clip model name, or one of this project's in model/clip_configs (`cma-clip-tiny`).
        pretrained: open_clip weight tag (`openai`) or a local weight file; None leaves the towers random.
        sequence_attention: False removes it (section 4, "without SWA").
        sequence_layers, sequence_heads: size of sequence-wise attention; its width is CLIP's embedding width.
        sequence_norm: `post` as in BERT, `pre`, or `gated`: `pre`, with each branch scaled by learned factors that
            start at 0, so that training starts from CLIP's own features (as ReZero, arXiv 2003.04887).
        modality_attention: False fixes λ at 0.5 (section 4, "without MWA").
        head_inputs: what a head's first layer reads: `sum` is λ·T' + (1 - λ)·I' (section 2.3); `both` has weights
            for λ·T' and (1 - λ)·I' each, which contains the sum, and late fusion at λ = 0.5.
        wide: terms of the title and statistics of the image go past the towers, straight to the labels (model.wide);
            of `cma_clip` only. For data sets on which the towers alone see too little.
        convolutions: a small convolutional network over the image joins I' (model.convolutions); of `cma_clip` only.
        head_width: hidden units of each task's MLP; None is CLIP's embedding width.
        dropout: in sequence-wise attention and heads.
        kernels: what computes modality-wise attention and heads: `triton` (fused kernels, CUDA), `reference`
            (plain PyTorch), or `auto`: the kernels on CUDA where they support the sizes, agree with the reference
            and are faster (kernels.choice). No weight depends on it.
    """

    architecture: Annotated[str, AfterValidator(check_architecture)] = "cma_clip"
    clip: str = "ViT-B-32-quickgelu"
    pretrained: str | None = None
    sequence_attention: bool = True
    sequence_layers: int = Field(12, ge=1)
    sequence_heads: int = Field(8, ge=1)
    sequence_norm: Literal["post", "pre", "gated"] = "post"
    modality_attention: bool = True
    head_inputs: Literal["sum", "both"] = "sum"
    wide: bool = False
    convolutions: bool = False
    head_width: int | None = Field(None, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    kernels: Literal["auto", "triton", "reference"] = "auto"

    @property
    def sees_beside_towers(self) -> bool:
        """Whether anything but CLIP's towers sees titles or images: what to learn from while they know nothing."""
        return self.wide or self.convolutions

    @model_validator(mode="after")
    def _only_cma_clip_has_parts_beside_the_towers(self) -> ModelConfig:
        for part in ("wide", "convolutions"):
            if getattr(self, part) and self.architecture != "cma_clip":
                raise ValueError(f"{part}: only cma_clip has such a part beside its towers, not {self.architecture}")
        return self


class BundleConfig(StrictModel):
    """All of a bundle but its weights and its tokenizer; the content of `config.json`.

    Attributes:
        tokenizer_sha256: of the tokenizer.json that the network was trained with; None in bundles of before.
        weights_sha256: of the model.safetensors beside it; None in bundles of before.
        reference: how it answered its validation products; None in bundles of before.
        provenance: where it came from: recipe, stage, data hash, validation loss.
    """

    format: Literal[1] = 1
    model: ModelConfig
    preprocess: PreprocessConfig
    tasks: TaskSet
    tokenizer_sha256: str | None = None
    weights_sha256: str | None = None
    reference: Reference | None = Field(None, exclude_if=lambda reference: reference is None)
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _reference_is_of_these_tasks(self) -> BundleConfig:
        if self.reference:
            self.reference.check({task.name: task.labels for task in self.tasks})
        return self

    @classmethod
    def read(cls, path: Path) -> BundleConfig:
        """Read `config.json`.

        Raises:
            ValueError: the file is missing or does not fit; the message names file and field.
        """
        return read_json(cls, path)

    def check_tokenizer(self, path: Path) -> None:
        """Refuse another tokenizer than the network's: ids would mean other words.

        Raises:
            ValueError: it differs; the message has both hashes.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        found = file_sha256(path)
        if self.tokenizer_sha256 not in (None, found):
            raise ValueError(f"{path}: its sha256 is {found}, the network was trained with {self.tokenizer_sha256}")

    def check_weights(self, path: Path) -> str:
        """The sha256 of model.safetensors.

        Raises:
            ValueError: it is missing, or not what was saved: a flipped bit still loads.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        found = file_sha256(path)
        if self.weights_sha256 not in (None, found):
            raise ValueError(f"{path}: damaged, its sha256 is {found}, config.json says {self.weights_sha256}")
        return found

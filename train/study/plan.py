"""A study as data: which variants of which recipe are trained on which data set, by which seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from cma_clip.settings import StrictModel, one_line
from model.networks import NETWORKS, StageName
from train.recipe import Recipe, load_recipe
from train.rivals.table import RIVALS

STUDIES = Path(__file__).parents[1] / "studies"
RIVAL = "rival"
Options = dict[str, str | int | float | bool]


class DataSet(StrictModel):
    """Where a data set lies, and the words after `python -m train.prepare` that make it; `--output` is added."""

    directory: Path
    prepare: list[str]


class Study(StrictModel):
    """The content of `train/studies/NAME.yaml`.

    Attributes:
        data: what the variants are trained and judged on.
        pretrain: what the towers are trained on once, by the stage contrastive; every variant and seed starts from
            them, as the paper's start from CLIP's. None: the recipe names weights (`model.pretrained`)
            or has parts beside the towers, which are random then.
        recipe: what all variants start from.
        options: dotted options laid over the recipe, for all variants.
        seeds: of weights, order and dropout.
        variants: name -> its own dotted options, laid over the others. The first is what the others are compared with.
            `{rival: NAME}` is no network but one of train.rivals: it knows neither recipe nor options, and as chance
            has no part in it, it is run once, under the first seed.
    """

    data: DataSet
    pretrain: DataSet | None = None
    recipe: Path
    options: Options = {}
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    variants: dict[str, Options] = Field(min_length=1)

    @field_validator("variants", mode="after")
    @classmethod
    def _rivals_are_known(cls, variants: dict[str, Options]) -> dict[str, Options]:
        for name, options in variants.items():
            if RIVAL in options and (len(options) > 1 or options[RIVAL] not in RIVALS):
                raise ValueError(f"{name}: {options}: a rival is one of {', '.join(RIVALS)}, and takes no options")
        return variants


@dataclass(frozen=True)
class Run:
    """One variant by one seed.

    Attributes:
        study: name of the study.
        data: the data set's directory.
        recipe: file that `options` are laid over.
        options: all of them, as `--key=value` words.
        stages: in their order.
        directory: holds the stages and, at the end, result.json.
        towers: weights that it starts from; None where the recipe names them.
        rival: of train.rivals, in place of a network; then there are no options, stages or towers.
    """

    study: str
    variant: str
    seed: int
    data: Path
    recipe: Path
    options: tuple[str, ...]
    stages: tuple[StageName, ...]
    directory: Path
    towers: Path | None = None
    rival: str | None = None

    @property
    def name(self) -> str:
        return f"{self.study}/{self.variant}/seed{self.seed}"

    @property
    def weights(self) -> Path:
        """What a pretraining leaves for `model.pretrained`."""
        return self.directory / "clip.safetensors"

    def resolved(self) -> Recipe:
        return load_recipe(self.recipe, self.options)

    def stamp(self, data_hash: str, towers: str | None) -> str:
        """12 hex digits of all that the result depends on.

        Args:
            data_hash: of the data set.
            towers: sha256 of the pretrained weights.
        """
        if self.rival:
            parts: list[Any] = [self.rival, data_hash]
        else:
            recipe = self.resolved().model_dump(mode="json")
            recipe["model"].pop("pretrained")
            parts = [recipe, self.stages, data_hash, towers]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """A study as it is run here.

    Attributes:
        name: of the study.
        output: holds its runs, and those of other studies.
        precision: where study and variant say nothing.
    """

    name: str
    study: Study
    output: Path
    precision: str

    @property
    def pretraining(self) -> Run | None:
        """The run that trains the towers of all others; None where the recipe names weights."""
        if not self.study.pretrain:
            return None
        options = _words({"precision": self.precision, **self.study.options})
        data, directory = self.study.pretrain.directory, self.output / self.name / "towers"
        return Run(self.name, "towers", 0, data, self.study.recipe, options, ("contrastive",), directory)

    def runs(self, variants: Sequence[str] | None = None) -> list[Run]:
        """Seed by seed, so that every variant has a result early.

        Args:
            variants: only these.
        Raises:
            ValueError: the study has none of the variants, or a variant's options do not fit the recipe.
        """
        known = self.study.variants
        chosen = [variant for variant in variants or known if variant in known]
        if not chosen:
            raise ValueError(f"--variants {' '.join(variants or ())}: study {self.name} has {', '.join(known)}")
        runs = [self._run(variant, seed) for seed in self.study.seeds for variant in chosen]
        return [run for run in runs if not run.rival or run.seed == self.study.seeds[0]]

    def _run(self, variant: str, seed: int) -> Run:
        directory = self.output / self.name / variant / f"seed{seed}"
        data, recipe = self.study.data.directory, self.study.recipe
        if rival := self.study.variants[variant].get(RIVAL):
            return Run(self.name, variant, seed, data, recipe, (), (), directory, rival=str(rival))
        settings = {"precision": self.precision, **self.study.options, **self.study.variants[variant], "seed": seed}
        towers = self.pretraining.weights if self.pretraining else None
        if towers:
            settings["model.pretrained"] = str(towers)
        options = _words(settings)
        stages = NETWORKS[load_recipe(recipe, options).model.architecture].stages
        return Run(self.name, variant, seed, data, recipe, options, stages, directory, towers)


def _words(options: Options) -> tuple[str, ...]:
    return tuple(f"--{key}={json.dumps(value)}" for key, value in options.items())


def read_study(name: str) -> tuple[str, Study]:
    """A study by the name of one in train/studies, or by its file.

    Raises:
        ValueError: there is none, or a key or value does not fit.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
        raise ValueError(f"study {name}: no file {path}; there are {known}, or give a .yaml file")
    try:
        return path.stem, Study.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None

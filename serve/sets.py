"""Which models of a repository answer together, by their names, and which set of them is served.

A plain repository holds one set: preprocess, tokenize, engine, decode, beside bundle.json and tokenizer.json. The sets
of `cma-clip publish` have names that all end alike, such as engine_3f9c2a7b10de and bundle_3f9c2a7b10de.json. The
ensemble's configuration names the steps of the one that is served, and the set before it: one file, so one rename
switches.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

STEPS = ("preprocess", "tokenize", "engine", "decode")
ENSEMBLE = "cma_clip"
STEP_NAME = re.compile(rf"({'|'.join(STEPS)})((?:_[0-9a-f]{{12}})?)")
_MODEL_NAME = re.compile(rf'\b(model_name: ?)"{STEP_NAME.pattern}"')
_PREVIOUS = re.compile(rf'^parameters {{ key: "previous" value {{ string_value: "{STEP_NAME.pattern}" }} }}\n', re.M)


class StepSet(NamedTuple):
    """The steps whose names end with `suffix` ("", or _ and 12 hex digits), and the files that they read."""

    repository: Path
    suffix: str = ""

    @classmethod
    def of(cls, folder: Path) -> StepSet:
        """The set that a step belongs to, by its model's folder.

        Raises:
            ValueError: no step has such a name.
        """
        match = STEP_NAME.fullmatch(folder.name)
        if match is None:
            raise ValueError(f"{folder}: expected {', '.join(STEPS)}, or one of them with _ and 12 hex digits")
        return cls(folder.parent, match[2])

    def name(self, step: str) -> str:
        return f"{step}{self.suffix}"

    def folder(self, step: str) -> Path:
        return self.repository / self.name(step)

    @property
    def bundle(self) -> Path:
        return self.repository / f"bundle{self.suffix}.json"

    @property
    def tokenizer(self) -> Path:
        return self.repository / f"tokenizer{self.suffix}.json"


class Served(NamedTuple):
    """What an ensemble's configuration says: the sets' suffixes; `previous` is None where none was served before."""

    current: str
    previous: str | None = None

    @classmethod
    def read(cls, repository: Path) -> Served:
        """Raises ValueError where the configuration is missing, or names no steps or those of several sets."""
        path = ensemble_config(repository)
        try:
            text = path.read_text()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        found = {match[3] for match in _MODEL_NAME.finditer(text)}
        if len(found) != 1:
            raise ValueError(f"{path}: its steps are of {len(found)} sets, expected {', '.join(STEPS)} of one")
        previous = _PREVIOUS.search(text)
        return cls(found.pop(), previous and previous[2])

    def write(self, text: str) -> str:
        """An ensemble's configuration with these sets in place of those that it names."""
        text = _PREVIOUS.sub("", _MODEL_NAME.sub(rf'\g<1>"\g<2>{self.current}"', text))
        if self.previous is None:
            return text
        return f'{text}parameters {{ key: "previous" value {{ string_value: "engine{self.previous}" }} }}\n'


def ensemble_config(repository: Path) -> Path:
    return repository / ENSEMBLE / "config.pbtxt"


def served_set(repository: Path) -> StepSet:
    """The set that a server over this repository answers with; where nothing has been exported yet, the one that will.

    Raises:
        ValueError: as Served.read.
    """
    there = ensemble_config(repository).is_file()
    return StepSet(repository, Served.read(repository).current if there else "")

"""Settings and small files as pydantic models that refuse what they do not know; one line for each fault."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound="StrictModel")


class StrictModel(BaseModel):
    """A pydantic model that refuses unknown keys, so that a misspelt setting cannot be ignored."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


def read_json(kind: type[Model], path: Path) -> Model:
    """Read one of these models from a JSON file.

    Raises:
        ValueError: the file is missing or does not fit; one line that names file and field.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"{path}: {what}") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def one_line(error: ValidationError) -> str:
    """The first fault of a pydantic error as `field: what is wrong`, with how many more there are."""
    faults = error.errors()
    where = ".".join(str(part) for part in faults[0]["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {faults[0]['msg']}{more}" if where else f"{faults[0]['msg']}{more}"

"""MM-IMDb's names: of the splits, of the 23 genres that are learnt, of those for which the paper leaves a movie out."""

from __future__ import annotations

from collections.abc import Sequence

from model.refusal import Code, Refusal

SPLIT_NAMES = {"train": "train", "validation": "dev", "test": "test"}

# fmt: off
GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror", "Documentary", "Mystery",
    "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music", "Animation", "Musical", "Western", "Sport",
    "Short", "Film-Noir",
)
# fmt: on
LEFT_OUT = frozenset({"News", "Adult", "Talk-Show", "Reality-TV"})


def genres_of(where: str, genres: Sequence[object]) -> list[str] | None:
    """A movie's genres in the order of GENRES; None if the paper leaves the movie out.

    Raises:
        Refusal: there is none, or an unknown one; the message starts with `where`.
    """
    if not genres:
        raise Refusal(Code.ROW_UNUSABLE, f"{where}: no genre")
    unknown = [genre for genre in genres if genre not in GENRES and genre not in LEFT_OUT]
    if unknown:
        problem = f"{where}: genre {unknown[0]!r} is not among the {len(GENRES)} of MM-IMDb"
        raise Refusal(Code.ROW_UNUSABLE, problem)
    if LEFT_OUT.intersection(genres):
        return None
    return [genre for genre in GENRES if genre in genres]

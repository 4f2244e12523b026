"""The genres of MM-IMDb: the 23 that are learnt, and those for which the paper leaves a movie out."""

from __future__ import annotations

from collections.abc import Sequence

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
        ValueError: there is none, or an unknown one; the message starts with `where`.
    """
    if not genres:
        raise ValueError(f"{where}: no genre")
    unknown = [genre for genre in genres if genre not in GENRES and genre not in LEFT_OUT]
    if unknown:
        raise ValueError(f"{where}: genre {unknown[0]!r} is not among the {len(GENRES)} of MM-IMDb")
    if LEFT_OUT.intersection(genres):
        return None
    return [genre for genre in GENRES if genre in genres]

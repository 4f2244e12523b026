"""The rivals, a row each. Importing this needs no scikit-learn, so that studies can be checked without it."""

from __future__ import annotations

from typing import NamedTuple


class Rival(NamedTuple):
    """title: its name in tables and plots. reads_titles, reads_images: what it answers from."""

    title: str
    reads_titles: bool
    reads_images: bool

    @property
    def text_share(self) -> float:
        """What stands for λ, as in model.rivals: titles only, images only, or not weighed."""
        return 0.5 * (1 + self.reads_titles - self.reads_images)


RIVALS = {
    "tfidf": Rival("TF-IDF", True, False),
    "image_features": Rival("image features", False, True),
    "tfidf_and_image_features": Rival("TF-IDF and image features", True, True),
}

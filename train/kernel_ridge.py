"""Ridge regression on how alike products are: on all pairs of few products, and without them on many."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

# N products, R terms, F statistics, L labels of one task, K directions

DIRECTIONS = 256  # of many products' kernel, that are solved at once
NEAR, MOST_STEPS = 1e-3, 300  # of the length of what is wanted, where conjugate gradients end, and at the latest
TINY = 1e-30

# Solves ridge regression with a penalty: weights [N, L] of products, with (kernel + 1 + penalty) @ weights the wanted.
Ridge = Callable[[float], Callable[[Tensor], Tensor]]


class Features(NamedTuple):
    """What the wide part sees of complete products: weights of terms, standardised statistics, both float32."""

    terms_NR: sparse.csr_matrix
    images_NF: np.ndarray

    def kernels(self) -> tuple[Tensor, Tensor]:
        """How alike products are by title, and by image; float32 [N, N]."""
        title_NN, images_NF = (self.terms_NR @ self.terms_NR.T).toarray(), torch.from_numpy(self.images_NF)
        return torch.from_numpy(title_NN), images_NF @ images_NF.T

    def of(self, products_N: np.ndarray) -> Features:
        """Those of these products."""
        return Features(self.terms_NR[products_N], self.images_NF[products_N])


def by_cholesky(kernel_NN: Tensor) -> Ridge:
    """By a matrix of all pairs of products."""

    def of(penalty: float) -> Callable[[Tensor], Tensor]:
        penalties_NN = penalty * torch.eye(len(kernel_NN), dtype=kernel_NN.dtype)
        factor_NN = torch.linalg.cholesky(kernel_NN + 1 + penalties_NN)
        return lambda wanted_NL: torch.cholesky_solve(wanted_NL, factor_NN)

    return of


def by_conjugate_gradients(features: Features, lengths: tuple[float, float]) -> Ridge:
    """By products with the features alone, for more products than all pairs fit into memory (Hestenes, Stiefel 1952).

    A solution starts from the one before, and what all products share most is solved at once (`main_directions`).
    """
    images_NF, products = torch.from_numpy(features.images_NF), len(features.images_NF)

    def kernel(weights_NL: Tensor) -> Tensor:
        sum_NL = weights_NL.sum(dim=0).expand_as(weights_NL)
        if lengths[0]:
            of_terms_RL = features.terms_NR.T @ weights_NL.numpy()
            sum_NL = sum_NL + lengths[0] * torch.from_numpy(features.terms_NR @ of_terms_RL)
        if lengths[1]:
            sum_NL = sum_NL + lengths[1] * (images_NF @ (images_NF.T @ weights_NL))
        return sum_NL

    along_NK, sizes_K = main_directions(kernel, products, min(DIRECTIONS, products // 2))

    def of(penalty: float) -> Callable[[Tensor], Tensor]:
        rest_K1 = (1 - (sizes_K[-1] + penalty) / (sizes_K + penalty))[:, None]
        last_NL: Tensor | None = None

        def nearly_solved(left_NL: Tensor) -> Tensor:
            return left_NL - along_NK @ (rest_K1 * (along_NK.T @ left_NL))

        def regression(wanted_NL: Tensor) -> Tensor:
            nonlocal last_NL
            weights_NL = torch.zeros_like(wanted_NL) if last_NL is None else last_NL
            left_NL = wanted_NL - kernel(weights_NL) - penalty * weights_NL
            towards_NL = solved_NL = nearly_solved(left_NL)
            size_L, enough_L = (left_NL * solved_NL).sum(dim=0), NEAR * wanted_NL.norm(dim=0)
            for _ in range(MOST_STEPS):
                if (left_NL.norm(dim=0) <= enough_L).all():
                    break
                moved_NL = kernel(towards_NL) + penalty * towards_NL
                step_L = size_L / (towards_NL * moved_NL).sum(dim=0).clamp(min=TINY)
                weights_NL, left_NL = weights_NL + step_L * towards_NL, left_NL - step_L * moved_NL
                solved_NL, before_L = nearly_solved(left_NL), size_L
                size_L = (left_NL * solved_NL).sum(dim=0)
                towards_NL = solved_NL + size_L / before_L.clamp(min=TINY) * towards_NL
            last_NL = weights_NL
            return weights_NL

        return regression

    return of


def main_directions(kernel: Callable[[Tensor], Tensor], products: int, count: int) -> tuple[Tensor, Tensor]:
    """Orthonormal directions [N, K] in which a kernel is large, and how large, the largest first, [K].

    Source: Nyström's method with a random sketch (Frangella, Tropp and Udell, arXiv 2110.02820, algorithm 2.1).
    """
    drawn_NK = torch.linalg.qr(torch.randn(products, count, generator=torch.Generator().manual_seed(0))).Q
    seen_NK = kernel(drawn_NK)
    shift = torch.finfo(seen_NK.dtype).eps * seen_NK.norm()
    seen_NK = seen_NK + shift * drawn_NK
    factor_KK = torch.linalg.cholesky(drawn_NK.T @ seen_NK, upper=True)
    seen_NK = torch.linalg.solve_triangular(factor_KK, seen_NK, upper=True, left=False)
    squares_K, turned_KK = torch.linalg.eigh(seen_NK.T @ seen_NK)
    squares_K, turned_KK = squares_K.clamp(min=TINY).flip(0), turned_KK.flip(1)
    return seen_NK @ turned_KK / squares_K.sqrt(), (squares_K - shift).clamp(min=0)

"""Conjugate gradients against Cholesky, in float64, and what makes them fast against eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from model.tasks import SingleLabel
from train.fit_wide import solve
from train.kernel_ridge import Features, by_cholesky, by_conjugate_gradients, main_directions


@pytest.mark.parametrize("count", [3, 700])
@pytest.mark.parametrize("lengths", [(0.3, 0.7), (1.0, 0.0), (0.0, 1.0)])
def test_conjugate_gradients_find_what_cholesky_does(count, lengths):
    rng, task = np.random.default_rng(5), SingleLabel(name="a", labels=["x", "y"])
    images = rng.normal(size=(count, 40)) * np.geomspace(1, 1e-3, 40)
    features = Features(sparse.random(count, 3000, 0.01, "csr", np.float32, rng=rng), images.astype(np.float32))
    targets = torch.from_numpy(np.eye(2, dtype=np.float32)[np.arange(count) % 2])
    kernel = sum(length * side for length, side in zip(lengths, features.kernels(), strict=True))
    for penalty in (0.1, 3.0):
        expected = solve(task, by_cholesky(kernel.double()), targets.double(), penalty)
        found = solve(task, by_conjugate_gradients(features, lengths), targets, penalty)
        for step in (0, -1):
            logits = ((kernel + 1).double() @ weights[step].double() for weights in (found, expected))
            torch.testing.assert_close(*logits, rtol=0, atol=0.01)


def test_main_directions_are_a_kernels_largest():
    spread = torch.randn(300, 12, generator=torch.Generator().manual_seed(0)) * 2.0 ** -torch.arange(12)
    kernel = spread @ spread.T
    directions, sizes = main_directions(lambda weights: kernel @ weights, 300, 20)
    expected = torch.linalg.eigvalsh(kernel.double()).flip(0)
    torch.testing.assert_close(directions.T @ directions, torch.eye(20), rtol=0, atol=1e-2)
    torch.testing.assert_close(sizes[:3].double(), expected[:3], rtol=1e-3, atol=0)

"""Logistic regression for one task: multinomial where a product has one label, one a label where it may have more."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from model.tasks import Task, has_labels

# N products, F features, L labels of one task

NEVER = -30.0  # logit of a label that no product of the train split has
Matrix: TypeAlias = np.ndarray | sparse.csr_matrix


class Linear(NamedTuple):
    """weights_LF and bias_L, float32."""

    weights_LF: np.ndarray
    bias_L: np.ndarray

    def __call__(self, x_NF: Matrix) -> np.ndarray:
        """Logits, float32 [N, L]."""
        return np.asarray(x_NF @ self.weights_LF.T + self.bias_L, dtype=np.float32)


def fit(task: Task, x_NF: Matrix, targets_NL: np.ndarray, strength: float) -> Linear:
    """Fit the products that have a label.

    Args:
        targets_NL: as in train.data.Batch.
        strength: scikit-learn's C: the higher, the less the weights are held back.
    Raises:
        ValueError: no product has a label, or a kind of task that this cannot fit.
    """
    if task.columns != len(task.labels):
        raise ValueError(f"task {task.name}: the rivals have no logistic regression for tasks of kind {task.kind}")
    labelled_N = has_labels(targets_NL)
    if not labelled_N.any():
        raise ValueError(f"task {task.name}: no product of the train split has a label that could be read")
    x_NF, has_NL = x_NF[labelled_N], targets_NL[labelled_N] > 0
    return _one_a_label(x_NF, has_NL, strength) if task.several_labels else _multinomial(x_NF, has_NL, strength)


def _multinomial(x_NF: Matrix, has_NL: np.ndarray, strength: float) -> Linear:
    labels_N = has_NL.argmax(axis=1)
    seen = np.unique(labels_N)
    linear = _constant(x_NF, np.full(has_NL.shape[1], NEVER))
    linear.bias_L[seen] = 0
    if len(seen) > 1:
        model = _regression(strength).fit(x_NF, labels_N)
        columns = seen if len(seen) > 2 else seen[1:]  # of two labels the first one's logit is 0
        linear.weights_LF[columns], linear.bias_L[columns] = model.coef_, model.intercept_
    return linear


def _one_a_label(x_NF: Matrix, has_NL: np.ndarray, strength: float) -> Linear:
    """A label that all products have, or none, gets the odds of its counts, each one more than it was."""
    counts_L = has_NL.sum(axis=0)
    linear = _constant(x_NF, np.log((counts_L + 1) / (len(has_NL) - counts_L + 1)))
    for label in np.flatnonzero((counts_L > 0) & (counts_L < len(has_NL))):
        model = _regression(strength).fit(x_NF, has_NL[:, label])
        linear.weights_LF[label], linear.bias_L[label] = model.coef_[0], model.intercept_[0]
    return linear


def _constant(x_NF: Matrix, bias_L: np.ndarray) -> Linear:
    return Linear(np.zeros((len(bias_L), x_NF.shape[1]), dtype=np.float32), bias_L.astype(np.float32))


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000, tol=1e-3)

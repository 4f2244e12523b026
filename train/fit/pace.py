"""How fast this machine trains a recipe's network, tried on random products before the work is planned."""

from __future__ import annotations

import time

import torch

from model.bundle import build_network
from model.tasks import TaskSet
from train.data import Batch
from train.losses import ClassificationObjective
from train.recipe import Recipe

# B products, T token ids

LENGTH = 16  # token ids of a title
TRIES = 3


def seconds_per_product(recipe: Recipe, tasks: TaskSet, products: int, threads: int) -> float:
    """Of end_to_end's forward and backward pass, by one rank; the fastest of TRIES micro-batches after the first.

    Args:
        tasks: all that the network answers.
        products: of a micro-batch.
        threads: of the rank, on a CPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    network, preprocess = build_network(recipe.model, tasks)
    objective = ClassificationObjective(network, tasks, recipe.stages.end_to_end).to(device).train()
    ids_BT = torch.randint(1, preprocess.vocab_size - 2, (products, LENGTH), dtype=torch.int32)
    ids_BT[:, -1] = preprocess.vocab_size - 1  # the end of the text
    pixels_BHWC = torch.randint(0, 256, (products, preprocess.image_size, preprocess.image_size, 3), dtype=torch.uint8)
    present_B2 = torch.ones(products, 2, dtype=torch.bool)
    targets_BC = torch.zeros(products, sum(len(task.labels) for task in tasks))
    batch = Batch([""] * products, ids_BT, pixels_BHWC, present_B2, targets_BC, present_B2[:, 0], []).to(device)
    times = [_step(objective, batch) for _ in range(1 + TRIES)]
    torch.set_num_threads(before)
    return min(times[1:]) / products


def _step(objective: ClassificationObjective, batch: Batch) -> float:
    began = time.perf_counter()
    objective.zero_grad()
    objective(batch).loss.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began

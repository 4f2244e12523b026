"""Losses by hand-computed values and against torch's own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import TASKS, tiny_config, tiny_network

from model.image_statistics import FEATURES
from model.tasks import MISSING, MultiLabel, TaskSet
from model.wide import Linear
from train.contrastive import ContrastiveObjective
from train.data import Batch
from train.losses import (
    ClassificationObjective,
    classification_losses,
    drop_modalities,
    exchange_modalities,
    task_weights,
)
from train.recipe import StageConfig

TENSORS = ("input_ids_BT", "pixels_BHWC", "present_B2", "targets_BC", "readable_B")
TAGS = MultiLabel(name="tags", labels=["a", "b"])


def batch(size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 8000, (size, 16), generator=generator, dtype=torch.int32)
    ids[:, -1] = 8191
    pixels = torch.randint(0, 256, (size, 64, 64, 3), generator=generator, dtype=torch.uint8)
    targets = torch.zeros(size, 5)
    targets[:, 1] = targets[:, 3] = 1
    everything = torch.ones(size, 2, dtype=torch.bool)
    return Batch([str(i) for i in range(size)], ids, pixels, everything, targets, everything[:, 0].clone(), [])


def test_classification_losses_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0), 0.0, 0.0, 2.0], [5.0, 5.0, 5.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    targets = torch.tensor([[0.0, 1, 0, 0, 1], [MISSING] * 3 + [1, 0], [1, 0, 0, MISSING, MISSING]])
    sums, counts = classification_losses(logits, targets, TaskSet([TASKS[0], TAGS]))
    assert counts.tolist() == [2, 2]
    assert sums[0].item() == pytest.approx(math.log(5 / 3) + math.log(3), rel=1e-5)
    bce = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))]
    assert sums[1].item() == pytest.approx(sum(bce) / 2, rel=1e-5)


def test_weighted_labels_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0, -1.0], [0.0, 0.0, 0.0, 9.0, 9.0]])
    targets = torch.tensor([[1.0, 0, 0, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, MISSING, MISSING]])
    weights = torch.tensor([1.0, 1.0, 1.0, 4.0, 2.5])
    sums, counts = classification_losses(logits, targets, TaskSet([TASKS[0], TAGS]), weights)
    assert counts.tolist() == [3, 2] and sums[0].item() == pytest.approx(3 * math.log(3), rel=1e-5)
    # without the label: log 2, then 1 and -1 as logits; with it: 2.5 and 4 times
    bce = [math.log(2), 2.5 * math.log(1 + math.exp(-2)), 4 * math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))]
    assert sums[1].item() == pytest.approx(sum(bce) / 2, rel=1e-5)
    ones = classification_losses(logits, targets, TaskSet([TASKS[0], TAGS]), torch.ones(5))[0]
    assert torch.equal(ones, classification_losses(logits, targets, TaskSet([TASKS[0], TAGS]))[0])


def test_the_objective_weighs_and_its_checkpoints_do_not_hold_the_weights():
    tasks, weights = TaskSet([TASKS[0], TAGS]), torch.tensor([1.0, 1.0, 1.0, 3.0, 5.0])
    network = tiny_network(tasks=tasks).eval()
    weighted = ClassificationObjective(network, tasks, StageConfig(), weights).eval()
    result = weighted(batch())
    logits = result.output.logits_BC[:, 3:]
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weights[3:])(logits, batch().targets_BC[:, 3:])
    torch.testing.assert_close(result.parts["tags"], expected.detach())
    plain = ClassificationObjective(network, tasks, StageConfig()).eval()
    assert result.parts["tags"] > plain(batch()).parts["tags"]
    assert result.parts["color"] == plain(batch()).parts["color"]
    assert weighted.state_dict().keys() == plain.state_dict().keys()


def test_a_task_without_any_label_costs_nothing_and_gives_zero_gradients():
    logits = torch.randn(4, 5, requires_grad=True)
    targets = torch.full((4, 5), MISSING)
    sums, counts = classification_losses(logits, targets, TASKS)
    sums.sum().backward()
    assert sums.tolist() == [0, 0] and counts.tolist() == [0, 0] and not logits.grad.any()


def test_masked_products_give_no_gradient():
    logits = torch.randn(3, 5, requires_grad=True)
    targets = torch.tensor([[0.0, 0, 1, 1, 0], [MISSING] * 3 + [0, 1], [MISSING] * 5])
    classification_losses(logits, targets, TASKS)[0].sum().backward()
    assert not logits.grad[1, :3].any() and logits.grad[1, 3:].any() and not logits.grad[2].any()


def clip_loss(inputs: Batch) -> torch.Tensor:
    """CLIP's loss as its paper writes it."""
    text, image, _ = tiny_network().towers(inputs.input_ids_BT, inputs.pixels_BHWC)
    similarity = F.normalize(text[:, 0], dim=-1) @ F.normalize(image[:, 0], dim=-1).T / 0.07
    same = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2


def test_contrastive_loss_is_the_mean_of_both_directions():
    loss, parts, output = ContrastiveObjective(tiny_network(), rank=0, world_size=1)(batch())
    torch.testing.assert_close(loss, clip_loss(batch()))
    assert parts == {} and output is None


def test_contrastive_loss_leaves_incomplete_and_unreadable_products_out():
    inputs = batch()
    inputs.present_B2[1, 0] = inputs.present_B2[4, 1] = inputs.readable_B[2] = False
    kept = [0, 3, 5]
    expected = clip_loss(replace(inputs, input_ids_BT=inputs.input_ids_BT[kept], pixels_BHWC=inputs.pixels_BHWC[kept]))
    network = tiny_network()
    loss = ContrastiveObjective(network, rank=0, world_size=1)(inputs).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def part_of(inputs: Batch, part: slice) -> Batch:
    return replace(inputs, ids=inputs.ids[part], **{name: getattr(inputs, name)[part] for name in TENSORS})


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 3), (6,)])
def test_micro_batches_together_have_the_loss_and_the_gradients_of_one_batch(sizes: tuple[int, ...]):
    """A product that is no pair among them."""
    inputs = batch()
    inputs.present_B2[4, 1] = False
    network = tiny_network()
    objective = ContrastiveObjective(network, rank=0, world_size=1)
    whole = objective(inputs).loss
    whole.backward()
    expected = gradients(network)
    network.zero_grad()
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    parts = [part_of(inputs, slice(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    with torch.no_grad():
        features = [objective(part, only_features=True) for part in parts]
    for part, cached in zip(parts, objective.update_loss(features), strict=True):
        result = objective(part, cached=cached)
        torch.testing.assert_close(result.loss.detach(), whole.detach())
        (result.loss / len(sizes)).backward()  # as DeepSpeed accumulates
    assert gradients(network).keys() == expected.keys()
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    alone = [objective(part).loss.item() for part in parts]
    assert len(sizes) == 1 or sum(alone) / len(alone) < whole.item() - 0.1  # fewer counterexamples: another loss


def test_ranks_and_micro_batches_together_have_the_gradients_of_one_batch(monkeypatch: pytest.MonkeyPatch):
    """Two ranks with two micro-batches each: averaged as DeepSpeed does, their gradients are those of the whole."""
    inputs, network = batch(8), tiny_network()
    ContrastiveObjective(network, rank=0, world_size=1)(inputs).loss.backward()
    expected = gradients(network)
    network.zero_grad()
    objectives = [ContrastiveObjective(network, rank, world_size=2) for rank in range(2)]
    # Update by update the first micro-batches of all ranks, then the second ones, as the sampler deals them out.
    parts = [
        [part_of(inputs, slice(4 * step + 2 * rank, 4 * step + 2 * rank + 2)) for step in range(2)] for rank in (0, 1)
    ]
    with torch.no_grad():
        features = [[objectives[0](part, only_features=True) for part in own] for own in parts]
    both = [[torch.cat(column) for column in list(zip(*own, strict=True))[:3]] for own in features]

    def of_all_ranks(_: object, mine: torch.Tensor) -> torch.Tensor:
        (place,) = {
            n
            for own in both
            for n, column in enumerate(own)
            if column.shape == mine.shape and torch.equal(column, mine)
        }
        return torch.cat([own[place] for own in both])

    both[0][2] = both[1][2] = torch.ones(4, dtype=torch.bool)
    monkeypatch.setattr(ContrastiveObjective, "_of_all_ranks", of_all_ranks)
    for rank, objective in enumerate(objectives):
        for part, cached in zip(parts[rank], objective.update_loss(features[rank]), strict=True):
            (objective(part, cached=cached).loss / 4).backward()
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_objective_counts_each_label_the_same():
    network, inputs = tiny_network().eval(), batch()
    objective = ClassificationObjective(network, TASKS, StageConfig()).eval()
    whole = objective(inputs)
    assert list(whole.parts) == ["color", "pattern"]
    assert whole.loss.item() == pytest.approx(sum(part.item() for part in whole.parts.values()))
    inputs.targets_BC[:5, :3] = MISSING
    masked = objective(inputs)
    assert masked.loss.item() == pytest.approx(masked.parts["color"].item() / 6 + whole.parts["pattern"].item())
    halves = [
        objective(replace(inputs, **{name: getattr(inputs, name)[part] for name in TENSORS})).loss.item()
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert masked.loss.item() == pytest.approx(sum(halves) / 2, rel=1e-5)


def test_modality_dropout_hides_one_of_two_and_never_both():
    torch.manual_seed(0)
    present = torch.ones(20_000, 2, dtype=torch.bool)
    present[:100, 0] = False
    hidden = ~drop_modalities(present, 0.3) & present
    assert not hidden[:100].any() and not hidden.all(dim=1).any()
    assert hidden[100:].float().mean(dim=0).tolist() == pytest.approx([0.15, 0.15], abs=0.01)


@pytest.mark.parametrize("settings", [StageConfig(modality_dropout=0.9), StageConfig(mismatched=0.9)])
def test_what_is_hidden_or_exchanged_is_so_in_training_only(settings: StageConfig):
    objective = ClassificationObjective(tiny_network(), TASKS, settings)
    inputs = batch()
    assert objective.eval()(inputs).loss == objective(inputs).loss
    torch.manual_seed(0)
    assert objective.train()(inputs).loss != objective.eval()(inputs).loss


def test_exchanged_titles_and_images_are_another_products():
    torch.manual_seed(0)
    inputs, titles, images = batch(200), 0, 0
    inputs.present_B2[:20, 0], inputs.present_B2[20:40, 1] = False, False
    for _ in range(50):
        changed, exchanged_B = exchange_modalities(inputs, 0.3)
        assert changed.targets_BC is inputs.targets_BC and changed.present_B2 is inputs.present_B2
        other_title_B = (changed.input_ids_BT != inputs.input_ids_BT).any(dim=1)
        other_image_B = (changed.pixels_BHWC != inputs.pixels_BHWC).flatten(1).any(dim=1)
        assert torch.equal(exchanged_B, other_title_B | other_image_B)
        assert not (other_title_B & other_image_B).any() and not (other_title_B | other_image_B)[:40].any()
        titles, images = titles + other_title_B.sum().item(), images + other_image_B.sum().item()
    assert (titles + images) / 50 / 160 == pytest.approx(0.3 * 0.9, abs=0.02)  # a tenth would get what is not there
    assert titles / images == pytest.approx(2, abs=0.3)


def test_a_product_alone_has_nobody_to_exchange_with():
    changed, exchanged_B = exchange_modalities(batch(1), 0.9)
    assert torch.equal(changed.input_ids_BT, batch(1).input_ids_BT) and not exchanged_B.any()


def test_a_multi_label_task_counts_as_often_as_it_is_told_to():
    tasks = TaskSet([TASKS[0], TAGS]).with_mismatch()
    assert task_weights(tasks, 5.0).tolist() == [1, 5, 1]
    network, inputs = tiny_network(tasks=tasks).eval(), batch()
    inputs.targets_BC = torch.cat([inputs.targets_BC, torch.ones(6, 1)], dim=1)
    plain, weighted = (
        ClassificationObjective(network, tasks, StageConfig(), weight_K=weight).eval()(inputs)
        for weight in (None, task_weights(tasks, 5.0))
    )
    assert weighted.loss.item() == pytest.approx(plain.loss.item() + 4 * plain.parts["tags"].item(), rel=1e-5)
    assert weighted.parts == plain.parts


def test_lambda_is_drawn_towards_the_evidence_in_training_where_both_are_there():
    network = tiny_network(tiny_config(sequence_norm="gated", head_inputs="both", wide=True), TASKS)
    torch.manual_seed(0)
    for k, task in enumerate(TASKS):
        sizes = (task.columns,), (network.wide.terms.rows, task.columns), (FEATURES, task.columns)
        models = [Linear(*(torch.randn(size) for size in sizes)) for _ in range(3)]
        network.wide.set_task(k, torch.randn(task.columns), models)
    inputs = batch()
    inputs.present_B2[:2, 0] = False
    plain, drawn = (ClassificationObjective(network, TASKS, StageConfig(evidence_loss=loss)) for loss in (0.0, 0.5))
    assert plain.eval()(inputs).loss == drawn.eval()(inputs).loss
    _, evidence = network.with_evidence(inputs.input_ids_BT, inputs.pixels_BHWC, inputs.present_B2)
    plain, drawn = plain.train()(inputs), drawn.train()(inputs)
    share, wanted = drawn.output.text_share_BK.detach().double(), evidence.double().sigmoid()
    expected = 0.0
    for n in range(2, len(share)):
        for own, want in zip(share[n].tolist(), wanted[n].tolist(), strict=True):
            expected -= want * math.log(own) + (1 - want) * math.log(1 - own)
    assert drawn.loss.item() - plain.loss.item() == pytest.approx(0.5 * expected / len(share), rel=1e-3)
    assert not inputs.present_B2[:2].all(dim=1).any() and drawn.parts == plain.parts

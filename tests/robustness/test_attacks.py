"""Adversarial attacks, on networks for which the worst is known."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

import timestepper
from timestepper import networks
from timestepper.errors import ConfigurationError
from timestepper.robustness import FGSM, PGD, AutoAttack
from timestepper.robustness.attacks import _classifier
from timestepper.robustness.images import (
    read_test_images,
    some_test_images,
    with_test_images,
)
from timestepper.training.evaluation import evaluate

pytest.importorskip("art.attacks.evasion", exc_type=ImportError)
CPU = torch.device("cpu")
FAST = AutoAttack(steps=4, restarts=1, queries=10)


def trained(images, *between):
    """A network that knows the digits well, linear but for what is put in between."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), *between, nn.Linear(64, images.num_classes))
    inputs, labels = next(iter(images.batches("train", 1442, device=CPU)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels % images.num_classes).backward()
        optimizer.step()
    return network


def normalise(images, pixels):
    mean, std = (torch.tensor(v).double().view(-1, 1, 1) for v in (images.mean, images.std))
    return (pixels.double() - mean) / std


def gradient(network, images, pixels, labels):
    """∂L/∂x of a linear network by its formula: W^T (softmax - one-hot) / std."""
    linear = network[-1]
    outputs = network.double()(normalise(images, pixels))
    error = outputs.softmax(1) - nn.functional.one_hot(labels, images.num_classes)
    return ((error @ linear.weight) / images.std[0]).view_as(pixels).detach()


@pytest.fixture
def few(digits):
    return some_test_images(digits, 40)


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_fgsm_is_its_closed_form(eps, few, fabric):
    network = trained(few)
    before, labels = read_test_images(few, CPU)
    after, same = read_test_images(FGSM().attack(network, few, fabric, eps), CPU)
    pixels = before / 255
    slope = gradient(network, few, pixels, labels)
    clear = slope.abs() > 1e-6  # elsewhere rounding decides the sign
    assert clear.double().mean() > 0.8
    expected = (pixels + eps * slope.sign()).clamp(0, 1)
    torch.testing.assert_close((after / 255)[clear], expected[clear].float(), rtol=0, atol=2e-6)
    assert torch.equal(same, labels)


def test_scores_are_those_of_the_attacked_images(few, fabric):
    network = trained(few)
    outcome = FGSM(eps=(0.0, 0.05, 0.1), limit=40).evaluate(network, few, fabric)
    clean = evaluate(network, few, fabric, 40)
    assert outcome.levels == (0.0, 0.05, 0.1)
    assert outcome.cases == ("fgsm",)
    assert outcome.accuracy.shape == outcome.loss.shape == (1, 3)
    assert outcome.accuracy[0, 0].item() == clean.accuracy
    assert outcome.loss[0, 0].item() == pytest.approx(clean.loss, rel=1e-6)
    for column, eps in ((1, 0.05), (2, 0.1)):
        pixels, labels = read_test_images(FGSM().attack(network, few, fabric, eps), CPU)
        outputs = network.double()(normalise(few, pixels / 255))
        network.float()
        expected = nn.functional.cross_entropy(outputs, labels).item()
        assert outcome.loss[0, column].item() == pytest.approx(expected, rel=1e-4)
    assert (outcome.loss.diff(dim=1) > 0).all()
    assert (outcome.accuracy.diff(dim=1) < 0).all()


def test_precision_of_the_training_does_not_round_small_changes_away(few, fabric):
    network = trained(few)
    mixed = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    attack = FGSM(eps=(0.0, 1 / 1020))
    exact, found = (attack.evaluate(network, few, each) for each in (fabric, mixed))
    assert torch.equal(found.loss, exact.loss)
    assert found.loss[0, 1] > found.loss[0, 0]


def test_nothing_in_the_ball_beats_fgsm_on_two_classes_of_a_linear_network(digits, fabric):
    """Between two classes the loss falls in one direction, whose corner FGSM takes."""
    pixels, labels = read_test_images(some_test_images(digits, 60), CPU)
    binary = with_test_images(replace(digits, classes=("even", "odd")), pixels, labels % 2)
    network = trained(binary)
    scores = {}
    for attack in (FGSM(eps=(0.05,)), PGD(eps=(0.05,)), replace(FAST, eps=(0.05,))):
        scores[attack.name] = attack.evaluate(network, binary, fabric)
    assert 0 < scores["fgsm"].accuracy.item() < evaluate(network, binary, fabric, 60).accuracy
    assert scores["pgd"].accuracy.item() == scores["fgsm"].accuracy.item()
    assert scores["autoattack"].accuracy.item() == scores["fgsm"].accuracy.item()
    assert scores["pgd"].loss.item() == pytest.approx(scores["fgsm"].loss.item(), rel=1e-4)
    assert "APGD-DLR (" not in scores["autoattack"].description


ATTACKS = [FGSM(), PGD(steps=5, restarts=2), FAST]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attacked_images_stay_in_the_ball_and_among_pixels(attack, few, fabric):
    network = trained(few, nn.Linear(64, 64), nn.ReLU())
    before, _ = read_test_images(few, CPU)
    after, _ = read_test_images(attack.attack(network, few, fabric, 0.06), CPU)
    assert (after - before).abs().max().item() == pytest.approx(255 * 0.06, rel=1e-4)
    assert (after - before).abs().max().item() <= 255 * 0.06 * (1 + 1e-6)
    assert after.min() >= 0
    assert after.max() <= 255


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_without_room_nothing_changes(attack, few, fabric):
    network = trained(few)
    before, _ = read_test_images(few, CPU)
    after, _ = read_test_images(attack.attack(network, few, fabric, 0.0), CPU)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


def test_stronger_attacks_leave_less(few, fabric):
    network = trained(few, nn.Linear(64, 64), nn.ReLU())
    clean = evaluate(network, few, fabric, 40).accuracy
    eps = (0.05,)
    fgsm, pgd, auto = (
        attack.evaluate(network, few, fabric).accuracy.item()
        for attack in (
            FGSM(eps=eps),
            PGD(eps=eps),
            AutoAttack(eps=eps, steps=10, restarts=1, queries=5),
        )
    )
    assert clean > fgsm >= pgd >= auto


@pytest.mark.parametrize("attack", [PGD(steps=3), FAST], ids=lambda attack: attack.name)
def test_random_numbers_come_from_the_seed_alone(attack, few, fabric):
    network = trained(few, nn.Linear(64, 64), nn.ReLU())

    def attacked(**changes):
        return read_test_images(replace(attack, **changes).attack(network, few, fabric, 0.02), CPU)[
            0
        ]

    np.random.seed(5)
    states = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()
    first = attacked()
    assert (np.random.get_state()[1] == states[0]).all()
    assert torch.equal(torch.get_rng_state(), states[1])
    assert random.getstate() == states[2]
    np.random.seed(6)
    torch.manual_seed(6)
    assert torch.equal(attacked(), first)
    assert not torch.equal(attacked(seed=1), first)


@pytest.mark.parametrize("mode", [True, False])
def test_a_network_with_step_sizes_is_attacked_as_it_is_and_kept(mode, few, fabric):
    """Folded or not, the attack finds the same images; neither copy is touched."""
    torch.manual_seed(0)
    network = networks.create("cifar_resnet8", in_channels=1)
    timestepper.attach(network, "lstm", example_input=torch.zeros(1, 1, 8, 8))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(4.0)  # so that training mode would show
    network.train(mode)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    stepped, _ = read_test_images(PGD(steps=3).attack(network, few, fabric, 0.1), CPU)
    assert network.training is mode
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    folded = timestepper.fold(network.eval())
    again, _ = read_test_images(PGD(steps=3).attack(folded, few, fabric, 0.1), CPU)
    assert torch.equal(stepped, again)


def test_hooks_of_a_sequential_network_count(few, fabric):
    """The toolbox would run its parts without them: here a hook turns the gradient round."""
    network = trained(few)
    plain, _ = read_test_images(FGSM().attack(network, few, fabric, 0.1), CPU)
    before, _ = read_test_images(few, CPU)
    network.register_forward_hook(lambda module, inputs, output: -output)
    turned, _ = read_test_images(FGSM().attack(network, few, fabric, 0.1), CPU)
    inside = (before > 30) & (before < 225)
    agree = ((plain - before).sign() == (turned - before).sign())[inside].double().mean()
    assert agree < 0.9


def test_autoattack_is_composed_as_the_toolbox_composes_it(few, fabric):
    """The same attacks with the same settings, but for the size of batches."""
    from art.attacks import evasion

    classifier = _classifier(trained(few), few, fabric)
    ours = AutoAttack().attacks(evasion, classifier, 0.1)
    theirs = evasion.AutoAttack(classifier, norm=np.inf, eps=0.1, eps_step=0.2)
    assert theirs.targeted is False
    assert [type(attack) for attack in ours] == [type(attack) for attack in theirs.attacks]
    for own, other in zip(ours, theirs.attacks, strict=True):
        for setting in type(own).attack_params:
            if setting not in ("batch_size", "verbose", "loss", "adv_criterion", "summary_writer"):
                assert getattr(own, setting, None) == getattr(other, setting, None), setting


def test_what_it_says(few):
    assert FGSM(limit=None).describe(few) == (
        "FGSM, one step of length ε along the sign of the cross-entropy's gradient, in the L∞ ball "
        "of radius ε = 8/255 around all 40 test images of digits (pixels from 0 to 1, and clipped "
        "to it), seed 0. White-box: through the exact gradients of the network itself in eval "
        "mode and float32, step sizes folded in; untargeted, with the true labels."
    )
    said = PGD(eps=(0.0, 0.1), steps=7, step_size=0.5, restarts=3, seed=4, limit=9).describe(few)
    assert "7 steps of 0.5 ε from 3 random starts" in said
    assert "ε = 0, 0.1 around 9 evenly spaced ones of the 40 test images of digits" in said
    assert "seed 4" in said
    said = AutoAttack(steps=50, restarts=2, queries=300).describe(few)
    assert "APGD-CE (2 x 50 steps), untargeted APGD-DLR (2 x 50 steps), DeepFool (50 steps" in said
    assert "Square Attack (2 x 300 queries)" in said


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (FGSM, {"eps": ()}, "there is no eps; give at least one"),
        (FGSM, {"eps": (0.1, -0.1)}, r"eps is -0.1; it must be from 0 to 1, where white is 1"),
        (FGSM, {"eps": (8.0,)}, r"eps is 8; it must be from 0 to 1, where white is 1 \(such as 8/"),
        (FGSM, {"eps": (float("nan"),)}, "eps is nan"),
        (FGSM, {"seed": -1}, r"seed is -1; it must be from 0 to 2\^63 - 1"),
        (FGSM, {"limit": 0}, "limit is 0; it must be at least 1"),
        (PGD, {"steps": 0}, "steps is 0; it must be at least 1"),
        (PGD, {"restarts": 0}, "restarts is 0; it must be at least 1"),
        (PGD, {"step_size": 0.0}, "step_size is 0; it must be greater than 0 and at most 2"),
        (AutoAttack, {"queries": 0}, "queries is 0; it must be at least 1"),
    ],
)
def test_bad_settings(attack, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        attack(**settings)


def test_images_that_square_attack_cannot_take(few, fabric):
    flat = replace(few, image_size=(4, 16))
    pixels, labels = read_test_images(few, CPU)
    flat = with_test_images(flat, pixels.reshape(-1, 1, 4, 16), labels)
    with pytest.raises(ConfigurationError, match="images of 4x16 pixels don't fit the squares"):
        FAST.evaluate(trained(few), flat, fabric)

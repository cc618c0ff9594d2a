"""Controllers that do in training what they don't in eval mode."""

import copy

import torch

import timestepper


class Moded(torch.nn.Module):
    """Norms over the blocks, and dropout."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(features, channels), torch.nn.BatchNorm1d(channels), torch.nn.Dropout()
        )

    def forward(self, averaged):
        return self.layers(averaged).sigmoid()


def test_a_look_at_step_sizes_in_training_changes_nothing(home_made, images):
    network = timestepper.attach(home_made, Moded)
    network(images)
    frozen = network.time_stepping["layer1"].layers[2].eval()
    before = copy.deepcopy(network.state_dict())
    steps, time = timestepper.step_sizes(network), timestepper.evolution_time(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [m for m in network.modules() if not m.training] == [frozen]
    network.eval()
    assert all(torch.equal(row, steps[n]) for n, row in timestepper.step_sizes(network).items())
    assert timestepper.evolution_time(network) == time


def test_a_network_in_training_folds_to_what_it_is_in_eval_mode(home_made, images):
    network = timestepper.attach(home_made, Moded)
    network(images)
    expected = copy.deepcopy(network).eval()(images)
    assert torch.equal(timestepper.fold(network).eval()(images), expected)


def test_preserve_in_training_keeps_the_outputs_of_eval_mode(home_made, images):
    expected = copy.deepcopy(home_made).eval()(images)
    network = timestepper.attach(home_made, Moded, preserve=True)
    torch.testing.assert_close(network.eval()(images), expected)

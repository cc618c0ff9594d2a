"""One attached network in several threads: refused while passes overlap, and only then."""

import copy
import threading

import pytest
import torch
from home_made import HomeMade
from torch import nn

import timestepper
from timestepper.errors import AttachedError


class Gained(HomeMade):
    """Its own forward uses what is scaled."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(8, 1, 1))
        self.branch = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        x = x + self.gain * self.branch(x)
        return self.fc(self.layer1(x).mean((2, 3)))


@pytest.fixture(params=[HomeMade, Gained])
def network(request):
    torch.manual_seed(0)
    return timestepper.attach(request.param()).eval()


class Paused:
    """A pass in a thread of its own that waits before a module until it is told to go on."""

    def __init__(self, network, module, images):
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.output = None
        self.network, self.images = network, images
        self.thread = threading.Thread(target=self.run)
        handle = module.register_forward_pre_hook(self.wait)
        self.thread.start()
        assert self.inside.wait(20)
        handle.remove()

    def wait(self, module, inputs):
        self.inside.set()
        assert self.go_on.wait(20)

    def run(self):
        self.output = self.network(self.images)

    def end(self):
        self.go_on.set()
        self.thread.join(20)
        return self.output


@pytest.mark.parametrize("place", ["conv", "layer1.1.bn2", "fc"])
def test_a_second_thread_is_refused_and_harms_nothing(network, images, place):
    expected = network(images)
    twin = copy.deepcopy(network)
    paused = Paused(network, network.get_submodule(place), images)
    for _ in range(2):
        with pytest.raises(AttachedError, match=r"another thread is inside .* fold it, or give"):
            network(images)
    torch.testing.assert_close(twin(images), expected)
    torch.testing.assert_close(paused.end(), expected)
    torch.testing.assert_close(network(images), expected)


def test_threads_in_turn(network, images):
    expected = network(images)
    outputs = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: outputs.append(network(images)))
        thread.start()
        thread.join()
        outputs.append(network(images))
    for output in outputs:
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("ended", ["here", "in a thread that has ended"])
def test_a_pass_of_which_no_hook_heard_the_end_blocks_nobody(network, images, ended):
    expected = network(images)

    def leave(module, inputs, output):
        raise SystemExit

    def interrupted():
        handle = network.layer1[1].bn2.register_forward_hook(leave)
        with pytest.raises(SystemExit):
            network(images)
        handle.remove()

    def in_a_thread(action):
        results = []
        thread = threading.Thread(target=lambda: results.append(action()))
        thread.start()
        thread.join()
        return results[0]

    interrupted() if ended == "here" else in_a_thread(interrupted)
    assert network.time_stepping.inside_forward
    torch.testing.assert_close(in_a_thread(lambda: network(images)), expected)
    torch.testing.assert_close(network(images), expected)

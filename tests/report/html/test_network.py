"""What the page says of single images."""

from dataclasses import replace

import torch
from torch import nn

from timestepper.report.html.samples import classify
from timestepper.training.trained import load_trained


class Nothing(nn.Module):
    """Gives no scores."""

    def forward(self, images):
        return torch.full((len(images), 10), torch.nan)


def test_outputs_that_hold_nan_are_wrong(trained):
    samples = classify(replace(load_trained(trained), network=Nothing()))
    assert samples.seen == 355
    assert samples.right == 0
    assert len(samples.shown_wrong) == 12
    assert samples.shown_right == ()

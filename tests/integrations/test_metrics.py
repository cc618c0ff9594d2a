import pytest
import torch
from home_made import HomeMade

import timestepper
from timestepper.errors import AttachedError
from timestepper.integrations import step_metrics


def test_metrics_are_sums_and_means_of_the_step_sizes():
    network = timestepper.attach(HomeMade(depth=3).double(), "indp")
    with torch.no_grad():
        for parameter in network.time_stepping.parameters():
            parameter.normal_()
    steps = torch.stack(list(timestepper.step_sizes(network).values()))
    assert step_metrics(network) == pytest.approx(
        {
            "evolution_time/layer1": steps.sum().item() / steps.shape[1],
            "mean_step_size/layer1": steps.mean().item(),
        },
        rel=1e-12,
    )
    with pytest.raises(AttachedError):
        step_metrics(timestepper.fold(network))

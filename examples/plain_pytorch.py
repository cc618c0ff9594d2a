"""Time stepping in a training loop of your own: attach, train, fold.

python examples/plain_pytorch.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import timestepper


class Block(nn.Module):
    """An ordinary residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the body computes."""
        return (x + self.body(x)).relu()


def make_network() -> nn.Sequential:
    """Build the plain network; it knows nothing of time stepping."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        *(Block(16) for _ in range(6)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


torch.manual_seed(0)
pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
labels = torch.tensor(classes)
test_images, test_labels = images[1500:], labels[1500:]

network = make_network()
timestepper.attach(network, example_input=images[:1])

# After attaching, so that the optimizer has the controllers' parameters.
optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
for epoch in range(4):
    network.train()
    for batch in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        accuracy = (network(test_images).argmax(1) == test_labels).float().mean().item()
    times = {stage: round(time, 3) for stage, time in timestepper.evolution_time(network).items()}
    print(f"epoch {epoch + 1}: test accuracy {accuracy:.1%}, evolution time {times}")

for name, steps in timestepper.step_sizes(network).items():
    print(f"block {name}: step sizes {steps.min():.3f} to {steps.max():.3f}")

with torch.no_grad():
    before = network(test_images)
    timestepper.fold(network)
    after = network(test_images)
print("outputs bit-equal after folding:", torch.equal(before, after))

plain = make_network()
plain.load_state_dict(network.state_dict())  # what you ship: no key and no code of timestepper
with torch.no_grad():
    print(
        "outputs bit-equal in a fresh plain network:",
        torch.equal(plain.eval()(test_images), before),
    )

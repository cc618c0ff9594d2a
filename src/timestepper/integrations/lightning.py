"""Time stepping in Lightning's Trainer: one callback."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from timestepper.controllers import ControllerFactory
from timestepper.errors import AttachedError
from timestepper.integrations.metrics import step_metrics
from timestepper.stepping import attach, find_branches, fold, load_weights

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    try:
        # Tried, not looked for: a folder called lightning/ beside the script is found, too.
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            raise ImportError(
                "Lightning is not installed: pip install 'timestepper[lightning]'"
            ) from None


class TimeSteppingCallback(Callback):
    """Attaches before the optimizers are built, logs every epoch, folds when the fit is done.

    Logged are :func:`~timestepper.integrations.step_metrics`, by ``LightningModule.log``; where a
    Trainer has several of these callbacks, each one's names begin with its ``attribute``.
    Checkpoints that are written during the fit hold the controllers, so that the fit resumes from
    them; ``validate``, ``test`` and ``predict`` load them into the folded network too, folding
    what they load.

    Put it before callbacks that copy the network when the fit begins (weight averaging).

    Args:
        attribute: name of the network in the LightningModule, such as ``"network"`` or
            ``"model.backbone"``. The LightningModule must have it once its ``__init__`` is done.
            A network that is attached already keeps its step sizes.
        controller: as for :func:`timestepper.attach`.
        **options: further arguments of :func:`timestepper.attach`.

    Raises:
        AttachedError: in ``setup``, when the LightningModule has no such network.
    """

    def __init__(
        self,
        attribute: str = "network",
        controller: str | float | ControllerFactory = "lstm",
        **options: Any,
    ) -> None:
        self.attribute = attribute
        self.controller = controller
        self.options = options
        self._folding: Any = None

    def _network(self, module: nn.Module) -> nn.Module:
        try:
            return module.get_submodule(self.attribute)
        except AttributeError:
            children = ", ".join(name for name, _ in module.named_children()) or "nothing"
            raise AttachedError(
                f"{type(module).__name__} has no network {self.attribute!r} (it has {children}): "
                "build it in __init__ and name it, TimeSteppingCallback(attribute=...)"
            ) from None

    def _attach(self, network: nn.Module, **options: Any) -> nn.Module:
        """Attach so that every checkpoint tells that it has step sizes."""
        attach(network, self.controller, **{**self.options, **options})
        for controller in network.time_stepping.children():  # type: ignore[union-attr]
            if not controller.state_dict():
                controller.register_buffer("stateless", torch.ones(()))
        return network

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach before a fit; before anything else, fold checkpoints that will be loaded."""
        network = self._network(pl_module)
        if stage != "fit":
            self._folding = pl_module.register_load_state_dict_pre_hook(self._fold_loaded)
        elif not hasattr(network, "time_stepping"):
            self._attach(network)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing on the LightningModule."""
        if self._folding is not None:
            self._folding.remove()
            self._folding = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log evolution time and mean step size of each stage."""
        of_this_kind = [one for one in trainer.callbacks if isinstance(one, TimeSteppingCallback)]  # type: ignore[attr-defined]
        prefix = f"{self.attribute}/" if len(of_this_kind) > 1 else ""
        metrics = step_metrics(self._network(pl_module))
        # All processes have the same weights, so there is nothing to average over them.
        pl_module.log_dict({prefix + name: value for name, value in metrics.items()})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fold; checkpoints and averaged weights have been dealt with by now."""
        fold(self._network(pl_module))

    def _fold_loaded(
        self, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any
    ) -> None:
        """Hook before weights are loaded into the LightningModule: fold those with controllers."""
        network = self._network(module)
        prefix = f"{prefix}{self.attribute}."
        names = [name for name in state if name.startswith(prefix)]
        if hasattr(network, "time_stepping") or not any(
            name.startswith(f"{prefix}time_stepping.") for name in names
        ):
            return
        branches = self.options.get("branches")
        if branches is None:
            # As in setup, which came before the Trainer's precision and device.
            like_before = copy.deepcopy(network).float().cpu()
            branches = find_branches(like_before, self.options.get("example_input"))
        weights = {name.removeprefix(prefix): state.pop(name) for name in names}
        # As precise as at the end of the fit; the Trainer converts a new module only later.
        precision = next(w.dtype for n, w in weights.items() if n.startswith("time_stepping."))
        network = self._attach(copy.deepcopy(network).to(precision), branches=branches)
        load_weights(network, weights)
        folded = fold(network).state_dict()
        state.update({prefix + name: tensor for name, tensor in folded.items()})

"""What a finished training leaves beside its checkpoints: folded network, plots, report."""

from __future__ import annotations

from timestepper.training.folded import folded_copy, write_weights
from timestepper.training.run import History, Run
from timestepper.training.trained import Trained

VERIFIED_IMAGES = 64


def write_results(run: Run, trained: Trained, history: History) -> None:
    """Write the folded network and the plots.

    Args:
        run: where to.
        trained: the network.
        history: its metrics.

    Raises:
        FoldError: the folded network does not do what the network does.
    """
    from timestepper.report import plot_curves, plot_step_sizes

    images = trained.images
    batches = images.batches(images.evaluation_split, VERIFIED_IMAGES, device=trained.fabric.device)
    some, _ = next(iter(batches))
    plain = folded_copy(trained.network, some)
    write_weights(plain, run.folded)
    plot_curves(history, run.curves_plot)
    if hasattr(trained.network, "time_stepping"):
        plot_step_sizes(trained.network, run.steps_plot)


def write_report(run: Run, trained: Trained) -> str:
    """Write the report; return a line that says where it is, or why there is none.

    Args:
        run: the run.
        trained: its network.
    """
    try:
        from timestepper.report import html

        html.write_report(html.read_runs([run.folder]), run.report, trained=trained)
    except Exception as error:  # whatever it is, the training is done and must not fail for it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"no report: {reason}; timestepper report {run.folder} writes it anew"
    return f"report: {run.report}"

"""What a training leaves beside its checkpoints: histories, folded network, plots, report."""

from __future__ import annotations

from timestepper.errors import first_line
from timestepper.training.commands import command
from timestepper.training.explanations import Explanations, write_explanations
from timestepper.training.folded import folded_copy, write_weights
from timestepper.training.run import History, Run
from timestepper.training.step_history import StepHistory, write_step_history
from timestepper.training.trained import Trained

VERIFIED_IMAGES = 64


def write_histories(
    run: Run, history: History, steps: StepHistory, explanations: Explanations
) -> None:
    """Write what each epoch has added to.

    Args:
        run: where to.
        history: the metrics.
        steps: the step sizes; empty for a plain network.
        explanations: what they depend on; empty where it is not recorded.
    """
    if steps:
        write_step_history(steps, run.step_history)
    if explanations:
        write_explanations(explanations, run.explanation)
    # Last, as what waits for an epoch looks at this file.
    run.write_metrics(history)


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
        reason = first_line(error)
        return f"no report: {reason}; {command('report', run.folder)} writes it anew"
    return f"report: {run.report}"

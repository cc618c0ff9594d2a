"""The paper's tables and figures, and what goes beyond them, each a small module."""

CALCULATED = {
    "table1": "parameters that the controllers add: the paper's formulas, and ours as built",
    "figure1": "small, large and adaptive steps for dy/dt = -4y",
}
"""What is calculated, the same at every scale. The module has ``calculate()``."""

TRAINED = {
    "table2": "the controllers on one network",
    "table3": "families and depths, plain and with TSC_LSTM",
    "table4": "learned step sizes, block by block and epoch by epoch",
    "figure3": "training curves, plain and with TSC_LSTM",
    "figure4": "accuracy and loss under Gaussian noise on the inputs",
    "figure5": "accuracy against depth, plain and with TSC_LSTM",
    "alternatives": "beyond the paper: time stepping beside what people would use instead",
    "controllers": "beyond the paper: what a controller does that a smaller start does not",
}
"""What is trained, as ``recipes/experiments/NAME.yaml`` declares it. The module has
``present(scale, planned, outcomes)``."""

COUNTED = ("table2", "table3")
"""Which have columns of parameters and operations, too. The module has ``count()``."""

EXPERIMENTS = CALCULATED | TRAINED
"""What each experiment is. Its module of the same name makes a
:class:`~timestepper.report.result_table.ResultTable` or a
:class:`~timestepper.report.result_figure.ResultFigure`."""

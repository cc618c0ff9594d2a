"""The paper's tables and figures, each a small module over the other folders."""

TABLES = {
    "table1": "parameters that the controllers add: the paper's formulas, and ours as built",
    "table2": "the controllers on ResNet-50",
    "table3": "eight networks of three families, plain and with TSC_LSTM",
}
"""What each table is. Its module of the same name has ``reproduce(*, counts)``, which returns a
:class:`~timestepper.experiments.result_table.ResultTable`."""

FIGURES = {
    "figure1": "small, large and adaptive steps for dy/dt = -4y",
}
"""What each figure is. Its module of the same name has ``reproduce()``, which returns a
:class:`~timestepper.experiments.result_figure.ResultFigure`."""

EXPERIMENTS = TABLES | FIGURES

"""Training: configuration, loop, checkpoints, evaluation.

Import from the modules: the loop brings large libraries, the configuration does not.
"""

"""Scores of numbers that were predicted for whole images."""

import numpy as np

from dual_encoder.evaluation.table import Column, Evaluation, Headline, Row, Table


def evaluate_number(label: np.ndarray, prediction: np.ndarray) -> Evaluation:
    """Returns the mean absolute error; both arguments are float [images], in the unit of the label."""
    error = float(np.abs(label - prediction).mean())
    return Evaluation((Table(
        name="number", title="Number of the image", row_title="",
        columns=(Column("mean_absolute_error", "mean absolute error", "number", "lower"),),
        rows=(Row("split", "whole split", (error,)),),
        headlines=(Headline("split", "mean_absolute_error", "mean absolute error"),)),))

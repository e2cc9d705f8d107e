"""Scores of a model of several sensors, with each of them alone."""

import dataclasses
from collections.abc import Mapping

from dual_encoder.evaluation.table import Evaluation, Row, Table, join


def with_single_sensors(whole: Evaluation, alone: Mapping[str, Table]) -> Evaluation:
    """Returns an evaluation with one more table: a row for each sensor alone.

    Args:
      whole: of all sensors together.
      alone: sensor -> the first table of the same evaluation, with the images of that sensor alone; {} adds nothing.
    """
    if not alone:
        return whole
    first = whole.tables[0]
    table = dataclasses.replace(
        first, name=f"{first.name}_alone", row_title="images", keys=(), headlines=(), references=(), pictures=(),
        rows=tuple(Row(name, f"{name} alone", one.rows[0].values) for name, one in alone.items()),
        note="The same model with the images of one sensor; what the encoders of the others return is 0.")
    return join([whole, Evaluation((table,))])

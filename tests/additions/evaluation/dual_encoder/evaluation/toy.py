"""A toy evaluation: how similar the vectors of partners are."""

import numpy as np

from dual_encoder.evaluation.embedded import EmbeddedSplit
from dual_encoder.evaluation.table import Column, Evaluation, Headline, Row, Table


def evaluate_toy(split: EmbeddedSplit) -> Evaluation:
    """Returns the mean cosine of the first two vectors of a record, in [-1, 1]."""
    first, second, *_ = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
                         for vectors in split.vectors.values())
    cosine = float((first * second).sum(axis=1).mean())
    return Evaluation((Table(
        name="toy", title="Toy similarity", row_title="", columns=(Column("cosine", "cosine", "number", "higher"),),
        rows=(Row("partners", "partners", (cosine,)),), headlines=(Headline("partners", "cosine", "toy cosine"),)),))

"""Tables of a workdir that was written before evaluations kept tables: made from its scores.json.

Nothing else recognises results by their keys. New evaluations need no change here.
"""

from collections.abc import Mapping
from typing import Any, cast

from dual_encoder.evaluation.retrieval import retrieval_table
from dual_encoder.evaluation.segmentation import SegmentationScores, segmentation_tables
from dual_encoder.evaluation.table import Table


def tables_of_scores(scores: Mapping[str, Any]) -> tuple[Table, ...]:
    """Returns the tables of old scores; none if they have neither form.

    Args:
      scores: either of retrieval, {direction: {'recall@1', ..., 'gallery_size'}}, or of segmentation, {'miou',
        'accuracy', 'iou', 'f1', 'support'}. Other entries are ignored.
    """
    directions = {name: figures for name, figures in scores.items()
                  if isinstance(figures, dict) and isinstance(figures.get("gallery_size"), int)}
    support = scores.get("support")
    if isinstance(support, dict) and all(isinstance(pixels, int) for pixels in support.values()):
        return segmentation_tables(cast(SegmentationScores, scores))
    return (retrieval_table(directions),) if directions else ()

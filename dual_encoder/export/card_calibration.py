"""The part of the model card that states the temperature of a calibrated segmentation model."""

from typing import Any

from dual_encoder.export.source import Content, Source


def section(source: Source, content: Content) -> str:
    """Returns Markdown: how the logits of a segmentation model become probabilities; '' for other outputs."""
    if not _segments(source, content):
        return ""
    found = source.calibration
    if found is None:
        return """## Probabilities

The softmax of the logits is not calibrated, and networks are usually too sure. Calibrate the run and export it again:
this card then states the temperature to divide the logits by.

"""
    return f"""## Probabilities

Divide the logits by the temperature {found.temperature:.6g} before the softmax. This changes no class. The calibration
error (15 bins) then falls from {found.before.error:.3g} to {found.after.error:.3g}, on
{found.pixels:,} labelled pixels of {found.data} that the run has not learnt from.

"""


def facts(source: Source, content: Content) -> dict[str, Any]:
    """Returns {'calibration': facts, or None} of a segmentation model, for card.json."""
    if not _segments(source, content):
        return {}
    found = source.calibration
    return {"calibration": found and {"temperature": found.temperature, "data": found.data, "pixels": found.pixels,
                                      "error_before": found.before.error, "error_after": found.after.error}}


def _segments(source: Source, content: Content) -> bool:
    return "logits" in content.outputs and source.network.kind == "segmentation"

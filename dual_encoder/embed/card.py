"""The card of a folder of embeddings, README.md: what the vectors are, how to read and to compare them."""

from collections.abc import Mapping, Sequence
from typing import Any

from dual_encoder.data.labels import LabelSpec

_SHOWN = 20  # rejected images that the card names


def write(facts: Mapping[str, Any], label: LabelSpec | None, rows: int, dim: int,
          rejected: Sequence[tuple[str, str]]) -> str:
    """Returns the card as Markdown.

    Args:
      facts: the origin, as the files state it.
      label: of the data; None = without labels.
      rows: number of vectors.
      dim: of a vector.
      rejected: (id, reason) of images without a vector.
    """
    plan, sensors = facts["plan"], facts["data"]["sensors"]
    return f"""---
tags: [remote-sensing, sentinel, embeddings, geoparquet]
---
# {rows:,} {plan["vectors"]} vectors of {dim} dimensions

GeoParquet 1.1 files, one row per image; the images of a pair share `id` and have a row each.
{_comparing(plan, sensors)}

| column | content |
|---|---|
| id, location_id | text: the record, and its place |
| sensor | text: {", ".join(f"`{name}` is {sensor}" for name, sensor in sensors.items())} |
| split | text; '' = none |
| time | UTC, of the image; null = unknown |
| geometry | WKB in degrees (OGC:CRS84): centre of the image, or its footprint; null = unknown |
{_label(label)}| record | number of the record in its split |
| embedding | {dim} x {plan["dtype"]}{"; value = integer x scale" if plan["dtype"] == "int8" else ""} |
{"| scale | float32, of the row |" if plan["dtype"] == "int8" else ""}

## Reading

```python
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

files = sorted(Path(".").glob("*.parquet"))  # "." is the folder of this file
table = pq.read_table(files, filters=[("sensor", "=", "{next(iter(sensors))}")])
vectors = np.stack(table["embedding"].to_numpy())  # [images, {dim}]
{_dequantise(plan)}```

`python -m dual_encoder.search --index=.` finds similar images. GeoPandas and QGIS read the files as maps.

{_provenance(facts)}{_rejected(rejected)}"""


def _provenance(facts: Mapping[str, Any]) -> str:
    return f"""## Provenance

| | |
|---|---|
| run | {_cell(facts["run"]["path"])}, step {facts["run"]["step"]} ({facts["run"]["task"]}) |
| run digest | {facts["run"]["digest"]} |
| trained on | {_cell(_name(facts["run"]["dataset"]))}, fingerprint {facts["run"]["dataset"]["fingerprint"]} |
| images | {_cell(facts["data"]["kind"])}: {_cell(facts["data"]["path"])} |
| images: fingerprint | {facts["data"]["fingerprint"]} |
{"".join(f"| images: {_cell(key)} | {_cell(value)} |{chr(10)}" for key, value in facts["data"]["source"].items())}\
| code | dual_encoder {facts["code_version"]} |
| command | `{_cell(facts["command"])}` |

`SHA256SUMS` holds the digests of the files: `sha256sum --check SHA256SUMS`. The licence is that of the images; keep
their attribution with the vectors.
"""


def _comparing(plan: Mapping[str, Any], sensors: Mapping[str, Any]) -> str:
    if plan["vectors"] == "pooled":
        return ("They are pooled features: for probes and neighbours within one sensor. The spaces of two sensors are "
                "not the same.")
    if len(sensors) > 1:
        return ("They are projected embeddings: both sensors lie in one space, and the cosine of two vectors is what "
                "the pre-training compared.")
    return "They are projected embeddings, which the pre-training compared by their cosine."


def _label(label: LabelSpec | None) -> str:
    if label is None:
        return ""
    kind = {"number": f"number{f' in {label.unit}' if label.unit else ''}",
            "image_class": "class of the image", "image_classes": "list of the classes of the image"}.get(
        label.kind, "class of most of the labelled pixels")
    return f"| label | {kind} |\n"


def _dequantise(plan: Mapping[str, Any]) -> str:
    if plan["dtype"] == "float32":
        return ""
    return 'vectors = vectors * table["scale"].to_numpy()[:, None]\n'


def _rejected(rejected: Sequence[tuple[str, str]]) -> str:
    if not rejected:
        return ""
    lines = "".join(f"| {_cell(identity)} | {_cell(reason)} |\n" for identity, reason in rejected[:_SHOWN])
    more = f"and {len(rejected) - _SHOWN} others\n" if len(rejected) > _SHOWN else ""
    return f"\n## Without a vector: {len(rejected)} images\n\n| image | reason |\n|---|---|\n{lines}{more}"


def _name(dataset: Mapping[str, Any]) -> str:
    return " ".join(dataset[key] for key in ("name", "config", "version"))


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")

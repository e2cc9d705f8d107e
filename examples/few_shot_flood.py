"""Finds flooded patches of radar images after a look at a few labelled ones: frozen vectors and a linear probe.

    python examples/few_shot_flood.py RUN SEN1FLOODS11 --shots=10

Chips are cut into patches of 64 px (640 m). The probe learns from `shots` dry and `shots` flooded patches, drawn from
all flood events but one, and is scored on that one; each event takes its turn, so no place is learnt from and scored. A
patch is flooded if water covers more than half of its labelled pixels. The mean backscatter alone is the comparison: it
shows whether the encoder sees more than dark pixels.
"""

import argparse
import pathlib

import numpy as np
import rasterio
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dual_encoder

PATCH = 64

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run")
parser.add_argument("raw", type=pathlib.Path, help="Sen1Floods11; data_prep/importers/sen1floods11.py says its layout")
parser.add_argument("--shots", type=int, default=10)
parser.add_argument("--draws", type=int, default=10, help="draws of labelled patches; the mean counts")
options = parser.parse_args()


def patches(array):
    """[bands, height, width] -> [patches, PATCH, PATCH, bands]."""
    bands, height, width = array.shape
    rows, columns = height // PATCH, width // PATCH
    cut = array[:, :rows * PATCH, :columns * PATCH].reshape(bands, rows, PATCH, columns, PATCH)
    return cut.transpose(1, 3, 2, 4, 0).reshape(-1, PATCH, PATCH, bands)


encoder = dual_encoder.load(options.run)
vectors, backscatter, flooded, events = [], [], [], []
folder = options.raw / "data" / "flood_events" / "HandLabeled"
for path in sorted((folder / "S1Hand").glob("*.tif")):
    with rasterio.open(path) as file:
        images = patches(file.read())
    with rasterio.open(folder / "LabelHand" / path.name.replace("S1Hand", "LabelHand")) as file:
        labels = patches(file.read())
    known = (labels >= 0) & np.isfinite(images).all(axis=-1, keepdims=True)
    kept = known.mean(axis=(1, 2, 3)) > 0.5
    if not kept.any():
        print(f"left out: {path.name} has no patch with data and labels")
        continue
    images, known, labels = images[kept], known[kept], labels[kept]
    vectors.append(encoder.encode(s1=images, units="physical", vectors="pooled")["s1"])
    backscatter.append(np.nanmean(images, axis=(1, 2)))
    flooded.append((labels == 1).sum(axis=(1, 2, 3)) > known.sum(axis=(1, 2, 3)) / 2)
    events += [path.name.split("_")[0]] * len(images)

inputs = {"vectors": np.concatenate(vectors), "mean backscatter": np.concatenate(backscatter)}
flooded, events = np.concatenate(flooded), np.array(events)
print(f"{len(flooded)} patches of {len(set(events))} events, {flooded.mean():.0%} flooded")
scores = {name: [] for name in inputs}
for event in sorted(set(events)):
    test = events == event
    if len(set(flooded[test])) < 2:
        continue  # nothing to tell apart
    for draw in range(options.draws):
        rng = np.random.default_rng(draw)
        learnt = np.concatenate([rng.choice(np.flatnonzero(~test & (flooded == wet)), options.shots, replace=False)
                                 for wet in (False, True)])
        for name, values in inputs.items():
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
            probe.fit(values[learnt], flooded[learnt])
            scores[name].append(roc_auc_score(flooded[test], probe.decision_function(values[test])))
for name, values in scores.items():
    print(f"{name}: area under the ROC curve {np.mean(values):.3f} on unseen events, {options.shots} + {options.shots} "
          "labelled patches")

"""Embeds the images of a folder with a trained encoder, and prints for each image the most similar other one.

    python examples/embed_folder.py RUN FOLDER --sensor=s1

RUN is the workdir of a run, or the folder of an exported encoder (with --vectors=pooled). FOLDER holds GeoTIFFs of one
sensor: radar in dB, or optical reflectance, as floats. For large folders, `python -m dual_encoder.embed` does the same
with progress, times and places.
"""

import argparse
import pathlib

import numpy as np

import dual_encoder
from dual_encoder.errors import UserError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run")
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--sensor", default="s1")
parser.add_argument("--vectors", choices=("projected", "pooled"), default="projected")
options = parser.parse_args()

encoder = dual_encoder.load(options.run)
print(f"bands {' '.join(encoder.bands[options.sensor])}, unit {encoder.units[options.sensor]}")
names, vectors = [], []
for path in sorted(options.folder.glob("*.tif")):
    try:
        found = encoder.encode(units="physical", vectors=options.vectors, **{options.sensor: path})
    except UserError as error:  # damaged, another unit, or without a pixel of data
        print(f"left out: {error}")
        continue
    names.append(path.stem)
    vectors.append(found[options.sensor][0])

unit = np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
cosines = unit @ unit.T
np.fill_diagonal(cosines, -1)
for name, row in zip(names, cosines, strict=True):
    print(f"{name}  ->  {names[row.argmax()]}  {row.max():.3f}")

"""Writes resnet.npz: what timm's ResNets answer for weights and images that numpy makes from names.

    python tests/golden/make_resnet.py      (needs torch and timm; the tests only need the file)

Per case '<depth>_<norm>_<height>x<width>': the spatial means of the first 64 channels of the five feature maps [5, 64],
and the corner values of the same channels [5, 64], where a difference in padding shows.
"""

import pathlib
import zlib

import numpy as np

BANDS = 12
CASES = ((18, "batch", 64, 64), (18, "batch", 65, 47), (34, "batch", 47, 65), (50, "batch", 65, 47),
         (101, "batch", 47, 65), (50, "group", 65, 47))


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the float32 value of timm's `key`: a function of its name and shape alone."""
    rng = np.random.Generator(np.random.Philox(zlib.crc32(key.encode())))
    if len(shape) == 4:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if key.endswith("weight"):  # of a norm: around 0.5 the maps of all layers stay of one size, as in trained networks
        return rng.uniform(0.25, 0.75, shape).astype(np.float32)
    return rng.uniform(-0.5, 0.5, shape).astype(np.float32)


def image(height: int, width: int) -> np.ndarray:
    """Returns a normalised image, float32 [1, height, width, BANDS]."""
    return np.random.Generator(np.random.Philox(height * 1000 + width)).standard_normal(
        (1, height, width, BANDS)).astype(np.float32)


def summary(features: list[np.ndarray]) -> np.ndarray:
    """Returns means and corners, [2, 5, 64], of five maps [1, h, w, channels]."""
    return np.stack([[f.mean(axis=(0, 1, 2))[:64] for f in features], [f[0, -1, -1, :64] for f in features]])


def main() -> None:
    """Runs timm."""
    import timm
    import torch

    golden = {}
    for depth, norm, height, width in CASES:
        model = timm.create_model(f"resnet{depth}", in_chans=BANDS, features_only=True, norm_layer=f"{norm}norm").eval()
        for key, value in model.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                value.copy_(torch.from_numpy(weight(key, tuple(value.shape))))
        with torch.no_grad():
            maps = model(torch.from_numpy(image(height, width).transpose(0, 3, 1, 2).copy()))
        golden[f"{depth}_{norm}_{height}x{width}"] = summary([m.numpy().transpose(0, 2, 3, 1) for m in maps])
    np.savez_compressed(pathlib.Path(__file__).with_name("resnet.npz"), **golden)


if __name__ == "__main__":
    main()

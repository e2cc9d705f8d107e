"""Writes vit.npz: what timm's vision transformers answer for weights and images that numpy makes from names.

    python tests/golden/make_vit.py      (needs torch and timm; the tests only need the file)

Per case: `<case>/pooled`, the image's vector [width], and `<case>/maps`, of each block's map the means and the last
corner of the first 64 channels [2, depth, 64].
"""

import pathlib
import zlib

import numpy as np

BANDS = 12
# name -> (depth, width, patch, image_size, pool), image height, image width
CASES = {
    "small": ((12, 384, 16, 224, "token"), 224, 224),
    "token_as_kept": ((2, 128, 8, 48, "token"), 48, 48),
    "token_larger": ((2, 128, 8, 48, "token"), 80, 64),
    "token_smaller_padded": ((2, 128, 8, 48, "token"), 37, 26),
    "mean_padded": ((3, 192, 16, 64, "mean"), 120, 45),
}


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the float32 value of timm's `key`: a function of its name and shape alone."""
    rng = np.random.Generator(np.random.Philox(zlib.crc32(key.encode())))
    if len(shape) == 1:
        centre = 1.0 if key.endswith("weight") else 0.0  # weights of norms
        return rng.uniform(centre - 0.5, centre + 0.5, shape).astype(np.float32)
    scale = 0.5 if len(shape) == 3 else np.sqrt(1 / np.prod(shape[1:]))  # positions and class token; kernels
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def image(height: int, width: int) -> np.ndarray:
    """Returns a normalised image, float32 [1, height, width, BANDS]."""
    return np.random.Generator(np.random.Philox(height * 1000 + width)).standard_normal(
        (1, height, width, BANDS)).astype(np.float32)


def summary(maps: list[np.ndarray]) -> np.ndarray:
    """Returns means and last corners, [2, depth, 64], of maps [1, rows, columns, channels]."""
    return np.stack([[m.mean(axis=(0, 1, 2))[:64] for m in maps], [m[0, -1, -1, :64] for m in maps]])


def build(depth: int, width: int, patch: int, image_size: int, pool: str):
    """Returns timm's model of a case, with the weights of `weight`."""
    import timm
    import torch

    mean = {"class_token": False, "global_pool": "avg", "fc_norm": False} if pool == "mean" else {}
    model = timm.create_model(
        "vit_small_patch16_224", num_classes=0, in_chans=BANDS, depth=depth, embed_dim=width, num_heads=width // 64,
        patch_size=patch, img_size=image_size, dynamic_img_size=True, dynamic_img_pad=True, **mean).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(torch.from_numpy(weight(key, tuple(value.shape))))
    return model


def main() -> None:
    """Runs timm."""
    import torch

    golden = {}
    for name, (geometry, height, width) in CASES.items():
        model = build(*geometry)
        with torch.no_grad():
            x = torch.from_numpy(image(height, width).transpose(0, 3, 1, 2).copy())
            last, maps = model.forward_intermediates(x, output_fmt="NCHW")
            golden[f"{name}/pooled"] = model.forward_head(last)[0].numpy()
        golden[f"{name}/maps"] = summary([m.numpy().transpose(0, 2, 3, 1) for m in maps])
    np.savez_compressed(pathlib.Path(__file__).with_name("vit.npz"), **golden)


if __name__ == "__main__":
    main()

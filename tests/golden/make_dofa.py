"""Writes dofa.npz: the first layers that torchgeo's DOFA makes, for weights that numpy makes from names.

    python tests/golden/make_dofa.py      (needs torch and torchgeo; the tests only need the file)

Per case: `<case>/kernel` [width, bands, 4, 4], every fifth row and column, and `<case>/bias` [width].
"""

import pathlib
from unittest import mock

import numpy as np

WIDTH = 16
CASES = {"radar": (5.405, 5.405), "rgb": (0.665, 0.56, 0.49), "swir": (2.19, 1.61)}  # name -> wavelengths


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the float32 value of a key: a function of its name and shape alone, near those of a trained network."""
    rng = np.random.Generator(np.random.Philox(sum(key.encode())))
    noise = rng.standard_normal(shape)
    if len(shape) == 1:
        return (("norm" in key and key.endswith("weight")) + 0.1 * noise).astype(np.float32)
    return (noise / shape[-1] ** 0.5).astype(np.float32)


def main() -> None:
    """Runs torchgeo."""
    import torch
    from torchgeo.models.dofa import DOFAEmbedding

    model = DOFAEmbedding(128, kernel_size=16, embed_dim=WIDTH).eval()
    golden = {}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(torch.from_numpy(weight(key, tuple(value.shape))))
        for name, waves in CASES.items():
            with mock.patch("torch.nn.functional.conv2d", wraps=torch.nn.functional.conv2d) as convolution:
                model(torch.zeros(1, len(waves), 16, 16), torch.tensor(waves))
            (_, kernel), bias = convolution.call_args.args, convolution.call_args.kwargs["bias"]
            golden |= {f"{name}/kernel": kernel[:, :, ::5, ::5].numpy(), f"{name}/bias": bias.numpy()}
    np.savez_compressed(pathlib.Path(__file__).with_name("dofa.npz"), **golden)


if __name__ == "__main__":
    main()

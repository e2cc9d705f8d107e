"""Fine-tunes an exported encoder in PyTorch: a U-Net of segmentation-models-pytorch, on a data set of this project.

    python -m dual_encoder.export --workdir=RUN --sensor=s1 --out=EXPORT
    python examples/finetune_with_smp.py EXPORT DATA --steps=100

RUN has a ResNet whose stem is 64 channels wide (config.encoder.width=64). DATA is a folder of records with labels of
pixels, such as s1s2_tiles/bigearthnet_water_weak/1.0.0. Needs `pip install 'dual_encoder[torch]'
segmentation-models-pytorch`.
"""

import argparse
import json
import pathlib

import numpy as np
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file

from dual_encoder.data.records import Records
from dual_encoder.imagery.sensors import IGNORED, SensorSpec

MULTIPLE = 32  # the U-Net halves the image five times


def read_card(folder):
    """Returns timm's name of the encoder, the name of its images ('s1'), and their sensor."""
    card = json.loads((folder / "config.json").read_text())
    return card["architecture"], card["dual_encoder"]["image"], SensorSpec.from_json(card["dual_encoder"]["sensor"])


def unet(folder, classes):
    """Returns a U-Net whose encoder has the weights of the export; its input are normalised images."""
    architecture, _, spec = read_card(folder)
    model = smp.Unet(f"tu-{architecture}", encoder_weights=None, in_channels=len(spec.bands), classes=classes)
    # A `tu-` encoder is timm's, with feature maps in place of a classifier. Its first map is the image itself.
    missing, unexpected = model.encoder.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing), (missing, unexpected)
    return model


def normalised(stored, spec):
    """[height, width, bands] stored integers -> [bands, height, width] float32, 0 (the mean) without data."""
    values = (stored - np.float32(spec.mean)) / np.float32(spec.std)
    values = np.clip(values, *spec.limits) if spec.limits else values
    return np.where(spec.holds_data(stored)[..., None], values, 0).astype(np.float32).transpose(2, 0, 1)


def read(data, split, image, spec):
    """Returns images [records, bands, height, width] and labels [records, height, width]; sides filled up to 32 px."""
    records = Records(data, split, (image, "label"))
    spec.check_matches(records.info.sensors[image], f"data set '{data}'", "the export")
    rows = [records.record(number) for number in range(len(records))]
    images = torch.from_numpy(np.stack([normalised(row[image], spec) for row in rows]))
    labels = torch.from_numpy(np.stack([row["label"] for row in rows]).astype(np.int64))
    bottom, right = (-side % MULTIPLE for side in labels.shape[1:])
    pad = torch.nn.functional.pad
    return pad(images, (0, right, 0, bottom)), pad(labels, (0, right, 0, bottom), value=IGNORED), records.info


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()

    _, image, spec = read_card(options.export)
    images, labels, info = read(options.data, "train", image, spec)
    test_images, test_labels, _ = read(options.data, "test", image, spec)
    classes = info.label.classes
    torch.manual_seed(0)
    model = unet(options.export, len(classes))
    optimizer = torch.optim.AdamW([{"params": model.encoder.parameters(), "lr": 1e-4},
                                   {"params": [*model.decoder.parameters(), *model.segmentation_head.parameters()],
                                    "lr": 1e-3}])
    print(f"{image}: {len(images)} images to learn from, {len(test_images)} to test, classes {', '.join(classes)}")
    for step in range(1, options.steps + 1):
        rows = torch.randperm(len(images))[:options.batch]
        x, y = images[rows], labels[rows]
        for axis in (-1, -2):
            if torch.rand(()) < 0.5:
                x, y = x.flip(axis), y.flip(axis)
        loss = torch.nn.functional.cross_entropy(model(x), y, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)

    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(dim=1) for part in test_images.split(options.batch)])
    known = test_labels != IGNORED
    for number, name in enumerate(classes):
        both = ((found == number) & (test_labels == number)).sum()
        either = (((found == number) | (test_labels == number)) & known).sum()
        print(f"IoU of {name}: {both / either:.3f}" if either else f"IoU of {name}: it does not occur")


if __name__ == "__main__":
    main()

"""One encoder as weights of torchgeo: model.safetensors, and weights.py with its bands and a transform of the units."""

from dual_encoder.errors import UserError
from dual_encoder.export import timm
from dual_encoder.export.card_code import code
from dual_encoder.export.shipped import copies
from dual_encoder.export.source import Content, Source

CODE = {"weights.py": "torchgeo_weights.py"}

# The functions of torchgeo.models that build encoders as they are here.
_MODELS = ("resnet18", "resnet50", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224")
_ARGUMENTS = {"in_chans", "img_size", "dynamic_img_size", "dynamic_img_pad"}


def write(source: Source) -> Content:
    """Returns the encoder of one sensor.

    Raises:
      UserError: as of `timm.write`, and for an architecture that torchgeo does not have.
    """
    weights, described, spec = timm.encoder(source, "torchgeo")
    name, arguments = described["architecture"], described["model_args"]
    if name not in _MODELS or set(arguments) - _ARGUMENTS:
        changed = ", ".join(sorted(set(arguments) - _ARGUMENTS))
        raise UserError(f"torchgeo has no {name}{f' with another {changed}' if changed else ''}, it has "
                        f"{', '.join(_MODELS)}; use --format=timm")
    loading = code(load, {source.sensor: ((1, 128, 128, len(spec.bands)), "float32")},
                   [f"{source.sensor}_vector", f"{source.sensor}_map"])
    loading += ("\n\nThe functions of torchgeo.models take `weights(folder)` of weights.py. Its `meta` has the bands, "
                "its `transforms` take physical units.")
    content = timm.content(source, weights, described, loading, source.left_out(), "torchgeo")
    return content._replace(input="physical", files={**content.files, **copies(CODE)})


def load(folder):
    """Returns a function: images in physical units by name to vector and map."""
    import json
    import runpy

    import torch
    import torchgeo.models

    weights = runpy.run_path(f"{folder}/weights.py")["weights"](folder)
    with open(f"{folder}/config.json") as file:
        arguments = json.load(file)["model_args"] | {"num_classes": 0}
    arguments.pop("in_chans")  # torchgeo takes it from the weights
    model = getattr(torchgeo.models, weights.meta["model"])(weights, **arguments).eval()

    def answer(images):
        (name, image), = images.items()
        with torch.no_grad():
            image = weights.transforms(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
            last, maps = model.forward_intermediates(image)
            vector = model.forward_head(last)
        return {f"{name}_vector": vector.numpy(), f"{name}_map": maps[-1].permute(0, 2, 3, 1).numpy()}

    return answer

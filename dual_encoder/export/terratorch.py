"""One encoder as a backbone of TerraTorch: timm's files, and custom_modules/backbone.py, which registers it."""

import importlib.resources

from dual_encoder.export import timm
from dual_encoder.export.card_code import code
from dual_encoder.export.source import Content, Source
from dual_encoder.weights.timm_keys import to_timm

CODE = "custom_modules/backbone.py"


def write(source: Source) -> Content:
    """Returns the encoder of one sensor; UserError as of `timm.write`, and for a ResNet that timm cannot build."""
    variables, spec = source.encoder()
    weights = to_timm(variables)
    described = timm.describe(weights, spec, source.image_size)
    timm.require_timm_size(described, "TerraTorch")
    loading = code(load, {source.sensor: ((1, 128, 128, len(spec.bands)), "float32")}, [f"{source.sensor}_map"])
    loading += """

In a YAML file of TerraTorch, with `terratorch fit --config FILE --custom_modules_path FOLDER/custom_modules`:

    model_args:
      backbone: dual_encoder
      backbone_folder: FOLDER

Give the data module the mean and std below. Stored integers have the same statistics as physical units, up to the
factor."""
    content = timm.content(source, weights, described, loading, source.left_out(), "terratorch")
    own = (importlib.resources.files("dual_encoder.export") / "terratorch_backbone.py").read_bytes()
    return content._replace(files={**content.files, CODE: own},
                            outputs={key: text for key, text in content.outputs.items() if key.endswith("_map")})


def load(folder):
    """Returns a function: normalised images [batch, height, width, bands] by name to the deepest map."""
    import runpy

    import torch
    from terratorch.registry import BACKBONE_REGISTRY

    runpy.run_path(f"{folder}/custom_modules/backbone.py")  # as --custom_modules_path of TerraTorch does
    model = BACKBONE_REGISTRY.build("dual_encoder", folder=folder).eval()

    def answer(images):
        (name, image), = images.items()
        with torch.no_grad():
            maps = model(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
        return {f"{name}_map": maps[-1].permute(0, 2, 3, 1).numpy()}

    return answer

"""The model card, README.md: how to feed an exported encoder correctly."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dual_encoder.imagery.sensors import SensorSpec

if TYPE_CHECKING:
    from dual_encoder.workdir.checkpoint import LoadedModel

_PURPOSES = {"pretrain": "by contrastive pre-training on co-located image pairs",
             "finetune": "by fine-tuning for segmentation", "classify": "by fine-tuning for classification"}


def write(model: "LoadedModel", sensor: str, description: Mapping[str, Any], library: str, loading: str) -> str:
    """Returns the card of one encoder as Markdown.

    Args:
      model: the checkpoint that the encoder comes from.
      sensor: its feature name, 's1' or 's2'.
      description: as `timm.describe` returns it.
      library: name of the library that loads the export.
      loading: Markdown that shows how to load it.
    """
    spec = model.sensors[sensor]
    bands = description["model_args"]["in_chans"]
    size = description["pretrained_cfg"]["input_size"][1]
    others = [f"{name} ({other.name})" for name, other in sorted(model.sensors.items()) if name != sensor]
    trained = f"Trained {_PURPOSES.get(model.config['task'], 'for the task ' + repr(model.config['task']))}"
    if model.dataset["source"].get("importer") == "import_weights":
        trained = f"Imported from published weights of layout '{model.dataset['config']}'"
    return f"""---
library_name: {library}
tags: [{", ".join(("remote-sensing", *spec.tags, "contrastive", spec.modality))}]
---
# {description["architecture"]} encoder of {spec.name}

{bands} input bands, {description["num_features"]} features, no classifier. {trained}\
{f", beside an encoder of {' and '.join(others)}" if others else ""}.{_network(description)}

## Input

| | |
|---|---|
| bands, in this order | {", ".join(spec.bands)} |
| unit | {spec.unit} |
| stored as | {spec.dtype}; {_scale(spec)} |
| no data | {_no_data(spec)} |
| training images | {size} x {size} px; {_other_sizes(description)} |

Normalise each band with its own constants, **in stored integers**:

    input = (stored - mean) / std{_limits(spec)}

| band | mean | std |
|---|---|---|
{chr(10).join(f"| {b} | {m:g} | {s:g} |" for b, m, s in zip(spec.bands, spec.mean, spec.std, strict=True))}

Statistics: {spec.provenance}.

{_other_units(spec)}

`config.json` gives the same mean and std in the physical unit (x {spec.scale:g}). timm never applies them by itself.

## Loading

{loading}

**Trap:** timm accepts any other `in_chans` for these weights without an error and re-mixes the first convolution. The
numbers that come out mean nothing. Give all {bands} bands, in the order above.

{_provenance(model)}"""


def _provenance(model: "LoadedModel") -> str:
    return f"""## Provenance

| | |
|---|---|
| training step | {model.step} |
| code | dual_encoder {model.code_version} |
| data set | {" ".join(model.dataset[key] for key in ("name", "config", "version"))} |
| data fingerprint | {model.dataset["fingerprint"]} |
{chr(10).join(f"| data: {_cell(key)} | {_cell(value)} |" for key, value in sorted(model.dataset["source"].items()))}

`SHA256SUMS` holds the digests of the files. No loader looks at them: after a copy or a download, check them by
`sha256sum --check SHA256SUMS` or `python -m dual_encoder.export --check=.`, because a flipped bit gives other weights
without an error.

The fingerprint names the exact records in their exact order. The licence is that of the training data; keep its
attribution with the weights.
"""


def _limits(spec: SensorSpec) -> str:
    return ", cut to {:g} .. {:g}".format(*spec.limits) if spec.limits else ""


def _scale(spec: SensorSpec) -> str:
    return "the value itself" if spec.scale == 1 else f"stored integer x {spec.scale:g} = value in this unit"


def _no_data(spec: SensorSpec) -> str:
    if spec.no_data is None:
        return "this product has no such value"
    return f"a pixel whose bands are all {spec.no_data}; set it to 0 **after** normalisation (that is the mean)"


def _other_units(spec: SensorSpec) -> str:
    if spec.notes:
        return spec.notes
    if spec.scale == 1:
        return "Feed the values as the product gives them; there is no other unit."
    return f"From a value in {spec.unit}, use `stored = {1 / spec.scale:g} * value`."


def _network(description: Mapping[str, Any]) -> str:
    """Returns facts that the name of the architecture does not contain."""
    arguments = description["model_args"]
    if "img_size" in arguments:
        vector = "its class token" if arguments.get("class_token", True) else "the mean of its tokens"
        size = f"{arguments['depth']} blocks of {arguments['embed_dim']} channels, p" if "depth" in arguments else "P"
        patch = arguments.get("patch_size", 16)
        return f" {size}atches of {patch} px; the vector of an image is {vector}, after the last norm."
    if "norm_layer" in arguments:
        return (" Its norms are GroupNorm, not BatchNorm: builders that cannot change the norm (torchvision, torchgeo) "
                "refuse these weights.")
    return ""


def _other_sizes(description: Mapping[str, Any]) -> str:
    arguments = description["model_args"]
    if "img_size" not in arguments:
        return "other sizes work"
    return (f"other sizes work: positions, kept for {arguments['img_size']} px, are interpolated, and sides that are "
            "no multiple of the patch are filled up with zeros")


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")

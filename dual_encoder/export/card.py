"""The model card of an export, README.md and card.json: how to feed it correctly, and where it comes from."""

import json
from collections.abc import Mapping
from typing import Any

from dual_encoder.export import card_calibration
from dual_encoder.export.samples import NAME, Samples
from dual_encoder.export.source import Content, Source
from dual_encoder.imagery.sensors import SensorSpec

# The licences of training data as the Hugging Face Hub spells them; it knows others as 'other'.
_LICENCES = ("cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "apache-2.0", "mit")


def write(source: Source, content: Content, samples: Samples | None, results: Mapping[str, Any]) -> str:
    """Returns README.md as Markdown.

    Args:
      source: what is exported.
      content: as the format wrote it.
      samples: images and outputs to prove parity with, or None.
      results: 'scores', 'step', 'command' and 'versions', as `results_of` returns them.
    """
    inputs = "\n".join(_input(name, spec, content, source.image_size) for name, spec in content.inputs.items())
    outputs = "\n".join(f"| {name} | {text} |" for name, text in content.outputs.items())
    return f"""{_front_matter(source, content)}
# {content.title}

{content.about}

## Input

{inputs}
## Output

| name | meaning |
|---|---|
{outputs}

## Loading

{content.loading}

{card_calibration.section(source, content)}{_proof(samples)}{_scores(results)}{_provenance(source, results)}"""


def facts(source: Source, content: Content, samples: Samples | None, results: Mapping[str, Any], format: str,
          digests: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of card.json, the card for programs.

    Args:
      source, content, samples, results: as of `write`.
      format: its name.
      digests: file name -> sha256 of all other files.
    """
    model = source.model
    return {"dual_encoder": {
        "format": format, "title": content.title, "task": model.config["task"], "input": content.input,
        "layout": content.layout, "image_size": source.image_size,
        "sensors": {name: spec.to_json() for name, spec in content.inputs.items()},
        "outputs": dict(content.outputs), **model.origin,
        **card_calibration.facts(source, content), "results": dict(results),
        "check": dict(samples.origin) if samples else None, "files": dict(digests)}}


def _front_matter(source: Source, content: Content) -> str:
    """Returns the metadata for the Hugging Face Hub; JSON strings are YAML, too."""
    tags = dict.fromkeys(tag for spec in content.inputs.values() for tag in (*spec.tags, "contrastive", spec.modality))
    licence = str(source.model.dataset["source"].get("licence", "unknown"))
    known = licence.lower() in _LICENCES
    lines = [f"library_name: {content.library}", f"tags: [{', '.join(('remote-sensing', *tags))}]",
             f"license: {licence.lower() if known else 'other'}"]
    if not known:
        lines.append(f"license_name: {json.dumps(licence)}")
    if any(name.endswith("_vector") for name in content.outputs):
        lines.append("pipeline_tag: image-feature-extraction")
    return "\n".join(["---", *lines, "---"])


def _input(name: str, spec: SensorSpec, content: Content, size: int) -> str:
    feeds = {"stored": f"`{name}`: the **stored integers**, {spec.dtype}; the code normalises them",
             "physical": f"`{name}`: float32 in the **physical unit**; the code normalises them",
             "normalised": f"`{name}`: float32, **normalised** by you as below"}
    return f"""| | |
|---|---|
| feed | {feeds[content.input]}; {content.layout} |
| bands, in this order | {", ".join(spec.bands)} |
| unit | {spec.unit} |
| stored as | {spec.dtype}; {_scale(spec)} |
| no data | {_no_data(spec, content.input)} |
| training images | {size} x {size} px; {content.sizes} |

{_normalisation(content.input, spec)}

| band | mean | std |
|---|---|---|
{chr(10).join(f"| {b} | {m:g} | {s:g} |" for b, m, s in zip(spec.bands, spec.mean, spec.std, strict=True))}

Statistics: {spec.provenance}.

{_other_units(spec)}
{_of_timm(spec, content)}"""


def _normalisation(form: str, spec: SensorSpec) -> str:
    if form == "normalised":
        return ("Normalise each band with its own constants, **in stored integers**:\n\n"
                f"    input = (stored - mean) / std{_limits(spec)}")
    return ("The code normalises each band with its own constants, in stored integers, `(stored - mean) / std`"
            f"{_limits(spec)}; do not do it again:")


def _of_timm(spec: SensorSpec, content: Content) -> str:
    if "config.json" not in content.files:
        return ""
    return (f"\n`config.json` gives the same mean and std in the physical unit (x {spec.scale:g}). timm never applies "
            "them by itself.\n")


def _proof(samples: Samples | None) -> str:
    if samples is None:
        return ("## Proof\n\nThis export holds no sample images, because the data set was not there. Export it again "
                "with --data=FOLDER.\n\n")
    origin = samples.origin
    return f"""## Proof

`{NAME}` holds {len(origin["ids"])} real images ({origin["data set"]}, split '{origin["split"]}', ids
{", ".join(origin["ids"])}) as inputs of this export, and the outputs of the JAX model for them. The command
`python -m dual_encoder.export --check FOLDER` loads the export in its own runtime and compares: max |theirs - ours| /
max |ours| is at most 1e-5. The images have the licence of the data set.

"""


def _scores(results: Mapping[str, Any]) -> str:
    if not results.get("scores"):
        return ""
    rows = "\n".join(f"| {name} | {'–' if value is None else format(value, '.4g')} |"
                     for name, value in results["scores"].items())
    return f"""## Scores

Of step {results["step"]}, on the images that the run was evaluated on; the command was
`{_cell(results["command"])}`.

| score | value |
|---|---|
{rows}

"""


def _provenance(source: Source, results: Mapping[str, Any]) -> str:
    model = source.model
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    return f"""## Provenance

| | |
|---|---|
| training step | {model.step} |
| code | dual_encoder {model.code_version} |
| written by | {versions} |
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


def _no_data(spec: SensorSpec, form: str) -> str:
    if form == "physical":
        value = "" if spec.no_data is None else f", or whose bands are all {spec.no_data * spec.scale:g}"
        return f"a pixel with a band that is not finite (NaN){value}; the code sets it to 0 after normalisation"
    if spec.no_data is None:
        return "this product has no such value"
    whose = f"a pixel whose bands are all {spec.no_data}"
    if form == "stored":
        return f"{whose}; the code sets it to 0 after normalisation (that is the mean)"
    return f"{whose}; set it to 0 **after** normalisation (that is the mean)"


def _other_units(spec: SensorSpec) -> str:
    if spec.notes:
        return spec.notes
    if spec.scale == 1:
        return "Feed the values as the product gives them; there is no other unit."
    return f"From a value in {spec.unit}, use `stored = {1 / spec.scale:g} * value`."


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")

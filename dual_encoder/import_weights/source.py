"""One encoder of a published file, ready for a sensor: weights, normalisation, and the facts of its origin."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.weights import dofa, files, first_layer, layouts, normalisation, published

_CARD = "config.json"  # of an export of ours: timm's description with the key dual_encoder


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    Attributes:
      file: of the weights, or its folder.
      layout: a name of `layouts.LAYOUTS`.
      sensor: the sensor that the encoder will take.
      file_bands: bands in the order of the file; () = as the layout or the card says.
      rule: for the first layer, if the bands differ.
      normalisation: a name of `normalisation.NAMES`; '' = that of the layout or of the card.
    """

    file: pathlib.Path
    layout: str
    sensor: SensorSpec
    file_bands: tuple[str, ...]
    rule: first_layer.Rule
    normalisation: str


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder that was found.

    Attributes:
      config: its architecture.
      sensor: the sensor, with the encoder's own normalisation.
      variables: {'params', 'batch_stats'}, float32 arrays.
      sha256: of the file.
      facts: of its origin, name -> text.
    """

    config: AnyEncoder
    sensor: SensorSpec
    variables: Mapping[str, Any]
    sha256: str
    facts: Mapping[str, str]


def load(wanted: Wanted) -> Encoder:
    """Reads the encoder of one sensor.

    Raises:
      UserError: the file cannot be read, or does not hold such an encoder; bands, unit or sensor differ.
    """
    layout, file = layouts.layout(wanted.layout), files.read(wanted.file)
    found = published.find(file, wanted.layout, layout, wanted.sensor.feature)
    weights = dofa.for_bands(found.weights, wanted.sensor.bands) if layout.wavelengths else found.weights
    config = published.encoder(weights, layout)
    card = _card(file.path)
    theirs = _bands(wanted, layout, weights, card)
    _check_sensor(wanted, layout, theirs, card)
    weights, said = first_layer.for_bands(weights, theirs, wanted.sensor.bands, wanted.rule)
    sensor, how = _normalised(wanted, layout, card)
    left = "; ".join(what if not count else f"{what}: {count} array{'s' * (count > 1)}"
                     for what, count in found.left_out.items())
    trained_on = (card.name if card else layout.bands.get(len(theirs), ("", ()))[0]) or (
        "any sensor" if layout.wavelengths else "a sensor that is not named")
    return Encoder(config, sensor, published.variables(weights, config), file.sha256, {
        "file": file.path.name, "sha256": file.sha256, "layout": wanted.layout,
        "weights of": f"{trained_on} ({' '.join(theirs)})",
        "first layer": "made from the wavelengths of these bands" if layout.wavelengths else said,
        "normalisation": how, "left out": left or "nothing", **_filled(found)})


def _filled(found: published.Found) -> Mapping[str, str]:
    """Returns a fact about keys that the file lacks; nothing if it has all."""
    text = ", ".join(f"{key} is {value:g}" for key, value in found.filled.items())
    return {"not in the file": f"{text}, as in the published code"} if text else {}


def _card(file: pathlib.Path) -> SensorSpec | None:
    """Returns the sensor in the card of an export of ours; None for any other file."""
    path = file.with_name(_CARD)
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
        return SensorSpec.from_json(values["dual_encoder"]["sensor"]) if "dual_encoder" in values else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' is damaged ({one_line(error)}); restore it, or export the encoder again") from error


def _bands(wanted: Wanted, layout: layouts.Layout, weights: Mapping[str, Any], card: SensorSpec | None
           ) -> Sequence[str]:
    """Returns the bands of the weights, in order."""
    if layout.wavelengths and wanted.file_bands:
        raise UserError(f"--file-bands={','.join(wanted.file_bands)} is given, and weights of layout '{wanted.layout}' "
                        "take any bands; leave it out")
    if layout.wavelengths:
        return wanted.sensor.bands
    if wanted.file_bands:
        return wanted.file_bands
    if card:
        return card.bands
    kernel = next(weights[key] for key in ("conv1.weight", "patch_embed.proj.weight") if key in weights)
    if kernel.shape[1] not in layout.bands:
        raise UserError(f"'{wanted.file}' takes {kernel.shape[1]} bands, and layout '{wanted.layout}' does not say "
                        "which; name them in the order of the file with --file-bands=B02,B03,...")
    return layout.bands[kernel.shape[1]][1]


def _check_sensor(wanted: Wanted, layout: layouts.Layout, theirs: Sequence[str], card: SensorSpec | None) -> None:
    """Raises UserError if the weights are of another sensor or unit, and nobody asked to adapt them."""
    name = card.name if card else layout.bands.get(len(theirs), ("", ()))[0]
    ours = wanted.sensor
    if wanted.rule or wanted.file_bands:
        return
    if card:
        ours.check_matches(card, f"'{wanted.file}'", "--sensor")
    elif name and name != ours.name.partition(":")[0]:
        raise UserError(f"the weights are of sensor '{name}' ({' '.join(theirs)}), --sensor is '{ours.name}' "
                        f"({' '.join(ours.bands)}, {ours.unit}); give --sensor={name}, or ask for other bands with "
                        "--adapt=select, mean or zero")


def _normalised(wanted: Wanted, layout: layouts.Layout, card: SensorSpec | None) -> tuple[SensorSpec, str]:
    """Returns the sensor with the encoder's normalisation, and its name."""
    ours = wanted.sensor
    if card and not wanted.normalisation and set(ours.bands) <= set(card.bands):
        order = [card.bands.index(band) for band in ours.bands]
        mean, std = (tuple(getattr(card, key)[number] for number in order) for key in ("mean", "std"))
        return dataclasses.replace(ours, mean=mean, std=std, limits=card.limits, provenance=card.provenance,
                                   notes=card.notes), "of the card"
    name = wanted.normalisation or layout.normalisation.get(ours.modality, "")
    if not name:
        known = "; ".join(f"{name}: {what}" for name, what in normalisation.NAMES.items())
        raise UserError(f"layout '{wanted.layout}' does not say how {ours.modality} images are normalised; state it "
                        f"with --normalisation=... ({known})")
    return normalisation.normalised(ours, name), f"{name} ({normalisation.NAMES[name]})"

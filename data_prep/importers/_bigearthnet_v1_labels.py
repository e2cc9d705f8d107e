"""The land cover of a patch of BigEarthNet v1, which a JSON file in its folder names."""

import pathlib

from data_prep.names import shown
from data_prep.text_files import read_json
from dual_encoder.errors import UserError

# Level 3 of CORINE Land Cover in its order, without glaciers: the 43 classes of Sumbul et al. 2019, arXiv 1902.06148.
LAND_COVER_43 = (
    "Continuous urban fabric", "Discontinuous urban fabric", "Industrial or commercial units",
    "Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites", "Dump sites",
    "Construction sites", "Green urban areas", "Sport and leisure facilities", "Non-irrigated arable land",
    "Permanently irrigated land", "Rice fields", "Vineyards", "Fruit trees and berry plantations", "Olive groves",
    "Pastures", "Annual crops associated with permanent crops", "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation", "Agro-forestry areas",
    "Broad-leaved forest", "Coniferous forest", "Mixed forest", "Natural grassland", "Moors and heathland",
    "Sclerophyllous vegetation", "Transitional woodland/shrub", "Beaches, dunes, sands", "Bare rock",
    "Sparsely vegetated areas", "Burnt areas", "Inland marshes", "Peatbogs", "Salt marshes", "Salines",
    "Intertidal flats", "Water courses", "Water bodies", "Coastal lagoons", "Estuaries", "Sea and ocean")


def read(folder: pathlib.Path) -> list[int]:
    """Returns the numbers in `LAND_COVER_43` of the classes of a patch, from <folder>/<name>_labels_metadata.json.

    Args:
      folder: of an S1 or S2 patch.

    Raises:
      UserError: the file is missing, damaged, or names no classes or another one.
    """
    path = folder / f"{folder.name}_labels_metadata.json"
    said = read_json(path, "the land cover of a patch")
    names = said.get("labels") if isinstance(said, dict) else None
    if not isinstance(names, list) or not names:
        raise UserError(f"'{path}' names no labels; fetch it again")
    if strange := [name for name in names if name not in LAND_COVER_43]:
        raise UserError(f"'{path}' has the label {shown(str(strange[0]))}, which is none of the {len(LAND_COVER_43)} "
                        "classes of BigEarthNet v1; fetch it again")
    return [LAND_COVER_43.index(name) for name in names]

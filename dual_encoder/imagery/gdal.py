"""GDAL and PROJ as rasterio brings them: with their own data, and with errors of one line."""

import contextlib
import functools
import logging
import os
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType

from dual_encoder.errors import UserError, one_line

_PROJ = ("PROJ_DATA", "PROJ_LIB")


def load() -> ModuleType:
    """Returns rasterio. It is loaded at the first call, because commands that read no image should not load GDAL."""
    _use_own_data()
    import rasterio
    import rasterio.warp

    return rasterio


@contextlib.contextmanager
def told(name: str, hint: str, form: str = "") -> Iterator[None]:
    """Turns each error of rasterio, GDAL and PROJ within it into a UserError.

    Args:
      name: of the file or the image, for the message.
      hint: what to do.
      form: the form in which it cannot be read, such as 'GeoTIFF'.
    """
    load()
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError

    hook = sys.unraisablehook
    # rasterio cannot log GDAL's messages about damaged text, and would show a traceback for each.
    sys.unraisablehook = lambda error: None if "rasterio" in str(error.object) else hook(error)
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"'{name}' does not fit into memory; cut it into smaller images") from error
    except (RasterioError, CRSError, CPLE_BaseError, ValueError, LookupError, OSError) as error:
        text = one_line(error.__cause__ or error, 160)
        if "missing codec" in text:
            hint = "this rasterio cannot decompress it; write it again with deflate"
        if variable := next((key for key in _PROJ if os.environ.get(key) and "proj" in text.lower()), ""):
            hint = (f"the variable {variable} is '{os.environ[variable]}', which may be that of another installation; "
                    f"unset it")
        raise UserError(f"'{name}' cannot be read{f' as {form}' * bool(form)} ({text}); {hint}") from error
    finally:
        sys.unraisablehook = hook


@functools.lru_cache(maxsize=1)
def _use_own_data() -> None:
    """Makes PROJ and GDAL read the data of rasterio's own wheel, if it holds them.

    PROJ_DATA, PROJ_LIB or GDAL_DATA of a conda environment or a desktop GIS are of another version, and rasterio obeys
    them: PROJ then finds no coordinate system at all. So the two of PROJ are taken out of this process's environment.
    """
    import rasterio
    from rasterio._env import set_gdal_config, set_proj_data_search_path

    logging.getLogger("rasterio").setLevel(logging.ERROR)  # warnings of GDAL would stand next to our one line

    own = pathlib.Path(rasterio.__file__).parent
    if (own / "proj_data" / "proj.db").is_file() and any(key in os.environ for key in _PROJ):
        for key in _PROJ:
            os.environ.pop(key, None)  # they come before the search path
        set_proj_data_search_path(str(own / "proj_data"))
    if (own / "gdal_data").is_dir() and os.environ.get("GDAL_DATA"):
        set_gdal_config("GDAL_DATA", str(own / "gdal_data"))

"""A real sample for everyone: the BigEarthNet v2 mini sets inside two configilm wheels, 32 pairs in all."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence

from data_prep.file_digest import sha256
from dual_encoder.errors import UserError
from dual_encoder.storage import atomic

WHEELS = {
    "0.6.3": "75a24275b3a8ce7df53ddb5103433afbd3accbcf81b283f623c6710fd857ad89",
    "0.7.1": "54e8c2424c55bb4e68dfda07593e155e9ecfa6c60b50585c4b378076934cf5e3",
}
_INSIDE = "configilm/extra/mock_data/"
_WANTED = _INSIDE + "BENv2/"
_MARKER = "sample.json"
_ATTRIBUTION = """# Attribution

- Images and tables: BigEarthNet v2 (reBEN), Clasen et al. 2024, arXiv 2407.03653, licence CDLA-Permissive-1.0.
- Contains modified Copernicus Sentinel data 2017-2018, processed by ESA and the BigEarthNet authors.
- Taken from the Python package configilm (versions 0.6.3 and 0.7.1), licence MIT.
"""


def fetch(out: pathlib.Path, wheels: Sequence[pathlib.Path] = ()) -> bool:
    """Puts the sample under `out`, one folder per wheel, each complete or absent.

    Args:
      out: the folder, made if it is missing.
      wheels: wheel files at hand; () downloads both with pip.

    Returns:
      False if everything was there already.

    Raises:
      UserError: no network, a file that is not one of the two wheels, a wheel without the sample.
    """
    given = {_version(path): path for path in wheels}
    wanted = list(given) or list(WHEELS)
    done = _complete(out)
    missing = [version for version in wanted if version not in done]
    if not missing:
        return False
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        for version in missing:
            wheel = given.get(version) or _download(version, pathlib.Path(downloads))
            done[version] = _extract(wheel, version, out)
    atomic.write(out / "ATTRIBUTION.md", _ATTRIBUTION.encode())
    atomic.write(out / _MARKER, (json.dumps(done, indent=1) + "\n").encode())
    return True


def _complete(out: pathlib.Path) -> dict[str, dict[str, str]]:
    """Returns version -> {file: sha256} of the versions that the marker lists and that are whole on disk."""
    try:
        marker = json.loads((out / _MARKER).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return {version: files for version, files in marker.items()
            if all((out / name).is_file() and sha256(out / name) == digest for name, digest in files.items())}


def _version(wheel: pathlib.Path) -> str:
    """Returns the version of a wheel, by its digest."""
    if not wheel.is_file():
        raise UserError(f"wheel '{wheel}' does not exist; give --wheel the path of a configilm wheel")
    digest = sha256(wheel)
    for version, expected in WHEELS.items():
        if digest == expected:
            return version
    expected = " or ".join(f"{digest[:12]}... ({version})" for version, digest in WHEELS.items())
    raise UserError(f"wheel '{wheel}' has sha256 {digest[:12]}..., expected {expected}; download it again")


def _download(version: str, folder: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-cache-dir", "--only-binary=:all:", "--ignore-requires-python", "--retries=1", "--timeout=20",
               f"--dest={folder}", f"configilm=={version}"]
    print(f"downloading configilm {version} (55 MB) with pip", flush=True)
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob(f"configilm-{version}-*.whl"))
    if result.returncode or not wheels:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        raise UserError(f"pip could not download configilm=={version} ({lines[-1][:150]}); without a network, get the "
                        "wheel elsewhere and give its file with --wheel=FILE")
    if _version(wheels[0]) != version:
        raise UserError(f"pip delivered another wheel than configilm {version}; give the right file with --wheel=FILE")
    return wheels[0]


def _extract(wheel: pathlib.Path, version: str, out: pathlib.Path) -> dict[str, str]:
    """Extracts the sample to out/configilm-<version>, whole or not at all; returns {file: sha256}."""
    target = out / f"configilm-{version}"
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=out))
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(_WANTED) and not name.endswith("/")
                     and ".." not in pathlib.PurePosixPath(name).parts]
            if not names:
                raise UserError(f"wheel '{wheel}' holds no {_WANTED}; expected configilm 0.6.3 or 0.7.1")
            for name in names:
                file = temporary / name.removeprefix(_INSIDE)
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic.write(file, archive.read(name))
        temporary.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)  # it is incomplete, or the marker would have named it
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {str(file.relative_to(out)): sha256(file) for file in sorted(target.rglob("*")) if file.is_file()}

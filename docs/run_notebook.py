"""Runs examples/first_hour.ipynb and stores its outputs in it: python docs/run_notebook.py

Needs `pip install -e '.[notebook]'`. The run writes to first_hour/ in the folder of the repository, emptied first.
"""

import os
import pathlib
import shutil
import sys

import nbclient
import nbformat

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "examples/first_hour.ipynb"


def main() -> None:
    """Runs all cells in a new kernel; an error of a cell ends the program, and the file stays as it was."""
    shutil.rmtree(ROOT / "first_hour", ignore_errors=True)
    os.environ |= {
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # `python` is this one
        "JAX_COMPILATION_CACHE_DIR": "first_hour/cache",  # outputs name no folder of this machine
    }
    notebook = nbformat.read(PAGE, as_version=4)
    nbclient.NotebookClient(notebook, timeout=None, record_timing=False, coalesce_streams=True,
                            resources={"metadata": {"path": str(PAGE.parent)}}).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version of this machine
    nbformat.write(notebook, PAGE)


if __name__ == "__main__":
    main()

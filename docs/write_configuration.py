"""Writes docs/configuration.md: every key of every configuration, from the dataclasses.

    python docs/write_configuration.py       # after a change of a key; a test fails until it was run
"""

import pathlib

from dual_encoder.command_line import config_help
from dual_encoder.command_line.config_file import load_config
from dual_encoder.tasks.build import AnyConfig

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"
FILES = ("pretrain", "finetune", "classify", "probe", "evaluate")
HEAD = """# Configuration

Every key of the files in `configs/`, written by `python docs/write_configuration.py` from the code that reads them.
Any key can be overridden on the command line, as in `--config.batch_size=64`. The values of one configuration, with the
same texts:

    python main.py --config=configs/pretrain.py:smoke --help

The column *files* says which configurations have the key. A word in brackets names the alternatives that have it.
"""


def page() -> str:
    """Returns the text of the page."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    groups: dict[str, str] = {}
    for name in FILES:
        for key in config_help.keys(AnyConfig, load_config(str(ROOT / "configs" / f"{name}.py"))):
            if key.kind:
                found.setdefault((key.path, key.kind, key.text, key.of), []).append(name)
            else:
                groups.setdefault(key.path, key.text)
    lines = [HEAD]
    for group in ("", *groups):
        rows = {key: files for key, files in found.items() if key[0].rpartition(".")[0] == group}
        lines += [f"## {group or 'The run'}\n", *([f"{groups[group]}\n"] if group else []),
                  "| key | values | meaning | files |", "|---|---|---|---|"]
        for (path, kind, text, of), files in sorted(rows.items()):
            meaning = " ".join(filter(None, [f"[{of}]" if of else "", text])).replace("|", "\\|")
            having = "all" if len(files) == len(FILES) else ", ".join(files)
            lines.append(f"| `{path}` | {kind} | {meaning} | {having} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())

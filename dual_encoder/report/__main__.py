"""One static HTML page about a run, from the files in its workdir alone: no scripts, no links, pictures inside.

    python -m dual_encoder.report --workdir=runs/pretrain
"""

import argparse
import base64
import html
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.imagery.pictures import label_to_rgb
from dual_encoder.report.curves import Series, plot
from dual_encoder.storage import atomic
from dual_encoder.workdir.metrics import rows_and_damage

_FIRST = ("loss", "learning_rate", "grad_norm", "temperature", "pairs_per_second", "data_wait")
_RETRIEVAL = ("recall@1", "recall@5", "recall@10", "median_rank", "mean_reciprocal_rank", "gallery_size")
_CAPTIONS = {
    "retrieval": "Each row: the query (grey frame), then the most similar images, best first: of the other sensor, or, "
                 "where there is one encoder, of its own, turned upside down. Green frame: the right answer. Radar: "
                 "VV, VH, VV−VH as red, green, blue (one band: grey); magenta: no data.",
    "segmentation": "Each row: input, label (white: ignored), prediction.",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #f5f7f9; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 0 0 12px; } h3 { font-size: 15px; margin: 18px 0 6px; }
section { background: #fff; border: 1px solid #e1e6eb; border-radius: 8px; padding: 18px 22px; margin-top: 18px; }
.sub, figcaption, .note { color: #5c6b7a; font-size: 13px; } .sub code { overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.facts div { background: #fff; border: 1px solid #e1e6eb; border-radius: 8px; padding: 10px 16px; }
.facts b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.facts span { color: #5c6b7a; font-size: 13px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 10px; }
img { max-width: 100%; height: auto; } figure { margin: 14px 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid #edf0f3; }
th { color: #5c6b7a; font-weight: 600; font-size: 13px; } td { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; overflow-wrap: normal; }
td.number, th.number { text-align: right; white-space: nowrap; } tr.quiet td { color: #8a97a3; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 8px; }
.warning { background: #fff6e0; border-color: #ecd9a4; }
"""


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes WORKDIR/report.html and returns its path.

    Reads config.json, run.json, metrics.jsonl and evaluation/*.{json,png,txt}; what is missing is left out, what
    cannot be read is named on the page.

    Args:
      workdir: local folder of a run.

    Raises:
      UserError: no such folder, nothing of a run in it, or it cannot be written to.
    """
    folder = pathlib.Path(workdir)
    if not folder.is_dir():
        raise UserError(f"--workdir '{folder}' is not a folder; give the folder of a run")
    problems: list[str] = []
    run, config = (_read_json(folder / name, problems) for name in ("run.json", "config.json"))
    rows = _read_rows(folder / "metrics.jsonl", problems)
    scores = {path.stem: _read_json(path, problems) for path in sorted(folder.glob("evaluation/*.json"))}
    pictures = sorted(folder.glob("evaluation/*.png"))
    if not (run or config or rows or scores or pictures):
        raise UserError(f"'{folder}' holds no run.json, config.json, metrics.jsonl or evaluation; give the --workdir "
                        "of a run")
    body = "".join([
        _head(folder, run, rows), _problems(problems), _facts(run, rows, scores),
        _curves(rows), _retrieval(scores, pictures), _segmentation(scores, pictures),
        _other_results(scores, pictures), _data(run), _config(config), _versions(run)])
    page = (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(_title(folder, run))}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
            f"<body><main>{body}</main></body></html>\n")
    atomic.write(folder / "report.html", page.encode())
    return folder / "report.html"


# Reading


def _read_json(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return {}
    return values if isinstance(values, dict) else {"value": values}


def _read_rows(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    rows, damaged = rows_and_damage(path) if path.exists() else ([], [])
    if damaged:
        problems.append(f"{path.name}: {len(damaged)} damaged lines were left out (first: line {damaged[0]})")
    return rows


def _series(rows: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Series]:
    """Metric -> (steps, values) of the rows of one kind; numbers only."""
    series: dict[str, Series] = {}
    for row in rows:
        if row["kind"] != kind:
            continue
        for name, value in row.items():
            if name not in ("step", "kind") and isinstance(value, int | float):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float(value))
    return series


def _results(values: Mapping[str, Any], key: str, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (path, dictionary) of every dictionary that holds `key`: 'gallery_size' marks retrieval, 'support'
    segmentation."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _results(value, key, (*path, name))
    if key in values:
        yield "/".join(name for name in path if name != "scores"), dict(values)


def _without_results(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of an evaluation without its step and the dictionaries that `_results` finds."""
    if "gallery_size" in values or "support" in values:
        return {}
    return {name: _without_results(value) if isinstance(value, dict) else value
            for name, value in values.items() if name != "step"}


# Sections


def _title(folder: pathlib.Path, run: Mapping[str, Any]) -> str:
    return " · ".join(str(part) for part in (run.get("task"), run.get("dataset", {}).get("config")) if part) or (
        folder.resolve().name)


def _head(folder: pathlib.Path, run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"workdir {folder.resolve().name}"]
    if "started" in run:
        parts.append(f"started {str(run['started']).replace('T', ' ')}")
    resumed = sum(row.get("event") == "resumed" for row in rows)
    if resumed:
        parts.append("resumed once" if resumed == 1 else f"resumed {resumed} times")
    command = f'<div class="sub"><code>{_text(run["command"])}</code></div>' if "command" in run else ""
    return f'<h1>{_text(_title(folder, run))}</h1><div class="sub">{_text(", ".join(parts))}</div>{command}'


def _problems(problems: Sequence[str]) -> str:
    items = "".join(f"<div>{_text(problem)}</div>" for problem in problems)
    return f'<section class="warning">{items}</section>' if items else ""


def _facts(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    """The handful of numbers that one looks for first."""
    facts: list[tuple[str, str]] = []
    for name, result in _results(scores, "gallery_size"):
        facts.append((_score(result.get("recall@1")),
                      f"recall@1 {_direction(name)}, gallery of {_number(result['gallery_size'])}"))
    for _, result in _results(scores, "support"):
        facts.append((_score(result.get("miou")), f"mean IoU of {len(result['support'])} classes"))
    train = _series(rows, "train")
    if "loss" in train:
        steps, values = train["loss"]
        facts.append((_number(values[-1]), f"loss at step {steps[-1]:,}"))
    if "pairs_per_second" in train:
        facts.append((_number(sorted(train["pairs_per_second"][1])[len(train["pairs_per_second"][1]) // 2]),
                      "records per second, median"))
    if "parameters" in run:
        facts.append((f"{run['parameters'] / 1e6:.1f} M", "parameters"))
    if "devices" in run:
        devices = run["devices"]
        facts.append((f"{devices.get('count', '?')} × {devices.get('platform', '?').upper()}",
                      str(devices.get("kind", ""))))
    tiles = "".join(f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>" for value, name in facts)
    return f'<div class="facts">{tiles}</div>' if tiles else ""


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
    events = [(row["step"], str(row.get("event", ""))) for row in rows if row["kind"] == "event" and row["step"] > 0]
    train, sections = _series(rows, "train"), ""
    names = [name for name in _FIRST if name in train] + sorted(set(train) - set(_FIRST))
    if names:
        sections += _section("Training", _plots({name: {"": train[name]} for name in names}, events))
    panels: dict[str, dict[str, Series]] = {}
    for name, series in _series(rows, "eval").items():
        if len(series[0]) == 1:
            continue  # the tables below say it better than a dot
        first, _, rest = name.partition("/")
        head, _, last = name.rpartition("/")
        if last in _RETRIEVAL:  # s1_to_s2/recall@1: one panel per figure, one line per direction
            panels.setdefault(last, {})[_direction(head)] = series
        else:  # iou/water: one panel per figure, one line per class
            panels.setdefault(first, {})[rest] = series
    shown = {title: lines for title, lines in panels.items() if title not in ("gallery_size", "support")}
    return sections + _section("Evaluation during training", _plots(shown, events))


def _retrieval(scores: Mapping[str, Any], pictures: Sequence[pathlib.Path]) -> str:
    rows, sizes = [], {}
    for name, result in _results(scores, "gallery_size"):
        rows.append([_direction(name), *((_number if key in ("median_rank", "gallery_size") else _score)(
            result.get(key)) for key in _RETRIEVAL)])
        sizes[result["gallery_size"]] = None
    chance = [["by chance", *(_score(k / n if k <= n else None) for k in (1, 5, 10)), _number((n + 1) / 2),
               _score(sum(1 / rank for rank in range(1, n + 1)) / n), _number(n)]
              for n in sizes if isinstance(n, int) and n > 0]
    table = _table(["direction", "recall@1", "recall@5", "recall@10", "median rank", "mean reciprocal rank",
                    "gallery size"], rows + chance, quiet=len(chance)) if rows else ""
    note = (f'<p class="note">{_steps(scores)}One record per place; each query has one right answer in the gallery. '
            "Figures of galleries of different size cannot be compared.</p>" if rows else "")
    return _section("Retrieval", table + note + _figures(pictures, "retrieval"))


def _segmentation(scores: Mapping[str, Any], pictures: Sequence[pathlib.Path]) -> str:
    content = ""
    for name, result in _results(scores, "support"):
        pixels = sum(result["support"].values()) or 1
        rows = [[label, *(_score(result.get(key, {}).get(label)) for key in ("iou", "f1")), _number(count),
                 f"{count / pixels:.1%}"] for label, count in result["support"].items()]
        content += (f"{f'<h3>{_text(name)}</h3>' if name else ''}<p>Mean IoU <b>{_score(result.get('miou'))}</b>, "
                    f"accuracy <b>{_score(result.get('accuracy'))}</b></p>"
                    + _table(["class", "IoU", "F1", "labelled pixels", "share"], rows,
                             colours=_class_colours(len(rows)))
                    + '<p class="note">'
                    f"{_steps(scores)}From one confusion matrix over the whole split; a dash: the class does not "
                    "occur.</p>")
    return _section("Segmentation", content + _figures(pictures, "segmentation"))


def _steps(scores: Mapping[str, Any]) -> str:
    steps = sorted({values["step"] for values in scores.values() if "step" in values})
    return f"Checkpoint of step {' and '.join(_number(step) for step in steps)}. " if steps else ""


def _other_results(scores: Mapping[str, Any], pictures: Sequence[pathlib.Path]) -> str:
    """Numbers and pictures that belong to no section above."""
    rows = [[f"{stem}: {name}", _number(value)] for stem, values in scores.items()
            for name, value in _flat(_without_results(values))]
    shown = [path for path in pictures if not path.stem.startswith(tuple(_CAPTIONS))]
    return _section("Other results", _table(["evaluation", "value"], rows) + _figures(shown, ""))


def _data(run: Mapping[str, Any]) -> str:
    dataset = run.get("dataset", {})
    records = dataset.get("records", {})
    rows = [["data set", " ".join(str(dataset[key]) for key in ("name", "config", "version") if key in dataset)],
            ["records", ", ".join(f"{split} {_number(count)}" for split, count in records.items())],
            ["fingerprint", dataset.get("fingerprint", "")], ["classes", ", ".join(dataset.get("classes", ()))],
            *([key, value] for key, value in sorted(dataset.get("source", {}).items()))]
    content = _table([], [row for row in rows if row[1]])
    for feature, spec in (run.get("sensors") or dataset.get("sensors", {})).items():
        shape = dataset.get("tensors", {}).get(feature, {}).get("shape")
        size = f", {' x '.join(str(n) for n in shape[:2])} px" if shape else ""
        content += (f"<h3>{_text(feature)}: {_text(spec['name'])}{size}</h3><p class=\"note\">Stored as "
                    f"{_text(spec['dtype'])}, no data = {_text(spec['no_data'])}; stored x {spec['scale']:g} = "
                    f"{_text(spec['unit'])}. Statistics in stored integers: {_text(spec['provenance'])}.</p>"
                    + _table(["band", *spec["bands"]], [["mean", *map(_number, spec["mean"])],
                                                        ["std", *map(_number, spec["std"])]]))
    return _section("Data", content)


def _config(config: Mapping[str, Any]) -> str:
    return _section("Configuration", _table([], [[key, json.dumps(value)] for key, value in _flat(config, ".")]))


def _versions(run: Mapping[str, Any]) -> str:
    return _section("Versions", _table([], [[key, value] for key, value in run.get("versions", {}).items()]))


# Pieces of a page


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>\n" if content else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], quiet: int = 0, colours: Sequence[str] = ()) -> str:
    """Cells after the first are right-aligned where the table has a header; the last `quiet` rows are greyed; `colours`
    go before the first cells."""
    if not rows:
        return ""
    kind = ' class="number"' if header else ""
    head = "".join(f"<th{kind if i else ''}>{_text(cell)}</th>" for i, cell in enumerate(header))
    swatches = [f'<span class="swatch" style="background: {colour}"></span>' for colour in colours]
    lines = [f'<tr{" class=quiet" if number >= len(rows) - quiet else ""}>' + "".join(
        f"<td{kind if i else ''}>{swatches[number] if i == 0 and colours else ''}{_text(cell)}</td>"
        for i, cell in enumerate(row)) + "</tr>" for number, row in enumerate(rows)]
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _figures(pictures: Sequence[pathlib.Path], kind: str) -> str:
    """Pictures whose name starts with `kind`; the caption is the text file of the same name, or says what is seen."""
    parts = []
    for path in pictures:
        if path.stem.startswith(kind):
            note = path.with_suffix(".txt")
            caption = note.read_text(encoding="utf-8", errors="replace") if note.exists() else _CAPTIONS.get(kind, "")
            title = _direction(path.stem.removeprefix(kind).strip("_")) or path.stem
            parts.append(f"<h3>{_text(title)}</h3><figure>{_image(path.read_bytes(), 'image/png', path.stem)}"
                         f"<figcaption>{_text(caption)}</figcaption></figure>")
    return "".join(parts)


def _plots(panels: Mapping[str, Mapping[str, Series]], events: Sequence[tuple[int, str]]) -> str:
    if not panels:
        return ""
    images = "".join(_image(plot(title, lines, [step for step, _ in events]), "image/svg+xml", title)
                     for title, lines in panels.items())
    text = ", ".join(f"{name} at step {step:,}" for step, name in events)
    note = f'<p class="note">Dotted lines: {_text(text)}.</p>' if text else ""
    return f'<div class="curves">{images}</div>{note}'


def _image(data: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{_text(alt)}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def _text(value: Any) -> str:
    return html.escape(str(value))


def _class_colours(count: int) -> list[str]:
    """The colours of classes 0, 1, ... in label pictures."""
    return ["rgb({}, {}, {})".format(*label_to_rgb(np.uint8([[value]]))[0, 0].tolist()) for value in range(count)]


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _number(value: Any) -> str:
    """Four significant digits, thousands separated; a dash for what could not be computed."""
    if value is None:
        return "–"
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def _direction(path: str) -> str:
    """'s1_to_s2' -> 'S1 → S2'; what is before it stays: 'large/s1_to_s2' -> 'large: S1 → S2'."""
    before, _, name = path.rpartition("/")
    name = name.replace("_to_", " → ").upper() if "_to_" in name else name.replace("_", " ")
    return f"{before}: {name}" if before else name


def _flat(values: Mapping[str, Any], separator: str = "/", prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, separator, f"{prefix}{name}{separator}")
        else:
            yield f"{prefix}{name}", value


def main() -> None:
    """Writes the report that the command line names; exit code 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m dual_encoder.report", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args()
    exit_on_user_error(lambda: print(write_report(flags.workdir)), flags.debug)


if __name__ == "__main__":
    main()

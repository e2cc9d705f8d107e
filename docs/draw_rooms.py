"""Draws the rooms of docs/architecture.md from the tables in tests/test_imports.py.

    python docs/draw_rooms.py       # after a change of the tables; a test fails until it was run
"""

import pathlib
import runpy

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: drawn by docs/draw_rooms.py -->\n", "<!-- end of rooms -->\n"


def tables() -> tuple[dict[str, set[str]], dict[str, str]]:
    """Returns ARROWS (room -> rooms that it may import) and FILES (room -> its files) of tests/test_imports.py."""
    found = runpy.run_path(str(ROOT / "tests" / "test_imports.py"))
    return found["ARROWS"], found["FILES"]


def shortest(arrows: dict[str, set[str]]) -> dict[str, list[str]]:
    """Returns the arrows that do not follow from others: if a -> b and b -> c, then a -> c is left out."""
    reached: dict[str, set[str]] = {}
    for room, others in arrows.items():  # a room stands below all rooms that it imports
        reached[room] = others.union(*(reached[other] for other in others))
    return {room: [other for other in arrows if other in others and not any(
        other in reached[between] for between in others)] for room, others in arrows.items()}


def block(arrows: dict[str, set[str]], files: dict[str, str]) -> str:
    """Returns the picture, in Mermaid, and the table of rooms, between BEGIN and END."""
    lines = ["```mermaid", "flowchart TD"]
    for room, others in reversed(shortest(arrows).items()):
        lines += [f"    {room} --> {other}" for other in others] or [f"    {room}"]
    lines += ["```", "", "| room | files, from the bottom up | may import |", "|---|---|---|"]
    for room, others in arrows.items():
        names = files.get(room, "").replace("__main__", "`__main__`")
        lines.append(f"| `{room}` | {names} | {' '.join(sorted(others)) or 'nothing'} |")
    return BEGIN + "\n" + "\n".join(lines) + "\n\n" + END


def drawn(page: str) -> str:
    """Returns the text of the page with the block that the tables give."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + block(*tables()) + after


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))

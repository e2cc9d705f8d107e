"""The style of pages: contrast by the formula of WCAG 2.2, and how a real browser lays them out."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from dual_encoder.report import curves, html
from dual_encoder.report.comparison import write_comparison
from dual_encoder.report.page import write_report
from tests.test_report import add_knn, make_run, two_runs

STYLE = (pathlib.Path(html.__file__).parent / "templates" / "style.css").read_text()
TEXT = ("ink", "quiet", "accent", "good", "bad")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def luminance(colour):
    """Relative luminance of '#rrggbb' (WCAG 2.2)."""
    share = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def colours(dark):
    """The variables of the page in a light or dark scheme."""
    light, in_dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#\w{6})", light)) | (
        dict(re.findall(r"--([\w-]+): (#\w{6})", in_dark)) if dark else {})


@pytest.mark.quick
@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_its_ground(dark):
    assert abs(contrast("#000000", "#ffffff") - 21) < 1e-9
    shown = colours(dark)
    pairs = [(text, ground) for text in TEXT for ground in ("panel", "page")] + [("warning-ink", "warning")]
    for text, ground in pairs:
        assert contrast(shown[text], shown[ground]) >= 4.5, (text, ground)
    unchecked = set(re.findall(r"(?<!-)color: ([^;}]+)", STYLE)) - {f"var(--{text})" for text, _ in pairs}
    assert unchecked == {"inherit"}, "each text has a colour of the table"


@pytest.mark.quick
@pytest.mark.parametrize("dark", [False, True])
def test_lines_of_curves_can_be_seen(dark):
    """3:1 for graphics (WCAG 2.2, 1.4.11); text in them as on the page."""
    panel = colours(dark)["panel"]
    assert all(contrast(colour, panel) >= 3 for colour in curves.COLOURS)
    found = dict(re.findall(r'\[style\*="fill: (#\w{6})"\]\{fill:(#\w{6})', curves._DARK_STYLE))
    assert all(contrast(found[colour] if dark else colour, panel) >= 4.5 for colour in (curves.INK, curves.QUIET))


def chromium(page, folder, *flags, width=390, dark=False):
    """Runs a browser that sees only the page; returns its output."""
    scheme = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={folder}",
         f"--window-size={width},1600", *scheme, *flags, page.absolute().as_uri()],
        capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(folder)})
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


MEASURE = """
const seen = [...document.querySelectorAll("td, th, b, h1, h2, h3, p, li, img, section")].filter(
  (one) => !one.closest(".picture, .wide") && one.offsetParent);
const cut = seen.filter((one) => one.getBoundingClientRect().right > innerWidth + 1);
parent.postMessage(JSON.stringify({inner: innerWidth, scroll: document.documentElement.scrollWidth,
  cut: cut.length, ground: getComputedStyle(document.body).backgroundColor, seen: seen.length}), "*");
"""


CLICK = """
const button = [...document.querySelectorAll("th button")].find((one) => one.textContent.startsWith("recall@1"));
const table = button.closest("table"), order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
const found = [];
for (let click = 0; click < 2; click++) { button.click(); found.push(order()); }
table.parentElement.innerHTML = `<pre id="found">${JSON.stringify(found).replaceAll("<", "&lt;")}</pre>`;
"""


@browser
def test_a_click_on_a_heading_sorts_the_runs(tmp_path):
    page = write_comparison([*map(str, two_runs(tmp_path))][::-1], tmp_path / "both.html")
    text = re.sub(r'script-src [^"]*', "script-src 'unsafe-inline'", page.read_text(), count=1)
    page.write_text(text.replace("</body>", f"<script>{CLICK}</script></body>"))
    dom = chromium(page, tmp_path / "profile", "--dump-dom")
    found = json.loads(re.search('<pre id="found">(.*?)</pre>', dom)[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert found == [["a", "<b>"], ["<b>", "a"]], "the highest first, then the lowest"


def measure(path, folder, **options):
    """What the browser says about a page in a frame of 390 pixels: a window is never narrower than 500."""
    text = re.sub(r'script-src [^"]*', "script-src 'unsafe-inline'", path.read_text(), count=1)
    (folder / "page.html").write_text(text.replace("</body>", f"<script>{MEASURE}</script></body>"))
    frame = folder / "frame.html"
    frame.write_text('<script>onmessage = (sent) => { found.textContent = sent.data; }</script>'
                     f'<iframe src="page.html" style="width:{options.pop("width")}px;height:900px;border:0"></iframe>'
                     '<pre id="found"></pre>')
    dom = chromium(frame, folder / "profile", "--dump-dom", "--virtual-time-budget=3000", width=1300, **options)
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', dom)[1])


@browser
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_nothing_is_cut_in_a_browser(tmp_path, width, dark):
    (tmp_path / "run").mkdir()
    add_knn(make_run(tmp_path / "run", command="python main.py --config.data.dir=" + "/a_long_name_of_a_folder" * 9))
    Image.fromarray(np.zeros((100, 900, 3), np.uint8)).save(tmp_path / "run" / "evaluation" / "wide.png")
    both = write_comparison([*map(str, two_runs(tmp_path)), str(tmp_path / "run")], tmp_path / "both.html")
    for page in (write_report(tmp_path / "run"), both):
        found = measure(page, tmp_path, width=width, dark=dark)
        assert found["inner"] == width and found["scroll"] <= width and not found["cut"] and found["seen"] > 60, found
    assert found["ground"] == ("rgb(18, 23, 28)" if dark else "rgb(244, 246, 248)")

"""A page in headless Chromium, as wide as a phone or a laptop: what is wider, what the console says."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

# windows are at least 500 pixels wide, so the page lies in a frame; what scrolls by itself may be wider
PROBE = """<body style="margin:0">
<iframe id="frame" style="border:0;width:{width}px;height:900px" src="{url}">
</iframe><script>frame.onload = () => {{
  const page = frame.contentDocument, inside = e => e.closest(".scroll");
  const wide = [...page.querySelectorAll("body *")].filter(
    e => !inside(e) && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80));
  const elements = page.querySelectorAll("*").length, width = page.documentElement.scrollWidth;
  const boxes = [...page.querySelectorAll(".scroll")];
  const scrolled = boxes.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 80));
  document.body.append("FOUND" + JSON.stringify({{width, wide, elements, scrolled}}) + "END");
}}</script>"""


def look(path: Path, width: int, scratch: Path) -> dict:
    """`width` of the page, elements that are `wide`r, number of `elements`, boxes that can be `scrolled`,
    `messages` of the console."""
    probe = scratch / "probe.html"
    probe.write_text(PROBE.format(url=path.resolve().as_uri(), width=width))
    flags = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --dump-dom"
    flags += " --enable-logging=stderr --allow-file-access-from-files --virtual-time-budget=3000"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={scratch / 'profile'}", probe.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HOME": str(scratch)},
    )
    found = re.search("FOUND(.*)END<", done.stdout)
    assert found, done.stderr[-2000:]
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])) | {"messages": messages}

"""A headless Chromium for the tests of pages, offline but for this machine."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell"))), None
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine; other tests check the page's text"
)

# Milliseconds after the drive in which errors of a page count, and those in which a browser must have ended: of its own
# clock, which jumps from one timer to the next.
LATE, BUDGET = 5_000, 10_000
# Each page has a frame of its own, in which its errors are collected from the first script on.
COLLECT = (
    "<script>window.problems = [];"
    'for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"]) addEventListener(kind, (event) => '
    "problems.push(String(event.message || event.reason || event.blockedURI || event.target.src || event.type)), true);"
    "const said = console.error; console.error = (...words) => { problems.push(words.join(' ')); said(...words); };"
    "</script>"
)


def command(folder, *more):
    """The command of a browser whose profile is the folder."""
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder}"]
    return [*words, *more]


def look(pages, script, folder):
    """Opens pages side by side in one browser, and returns what a script says of each.

    Args:
      pages: documents by name.
      script: the body of a JavaScript function of (page, document) of a page that is drawn; it may drive the page, and
        returns JSON values.
      folder: for the files of the browser.

    Returns, by name: {"said": what the script returned, "problems": errors of the page's own scripts, up to `LATE` after
    the drive, and those of the drive, "asked": addresses that the page loaded up to then}.
    """
    frames = [
        f'<iframe width="1100" height="1400" srcdoc="{html.escape(text.replace("<head>", "<head>" + COLLECT, 1))}">'
        "</iframe>"
        for text in pages.values()
    ]
    driver = """
    addEventListener("load", () => {
      const drive = (page, document) => { SCRIPT };
      const pages = [...document.querySelectorAll("iframe")].map((frame) => frame.contentWindow);
      const driven = pages.map((page) => {
        try { return drive(page, page.document); } catch (error) { page.problems.push(String(error)); return null; }
      });
      const read = () => {
        const found = pages.map((page, i) => ({
          said: driven[i], problems: page.problems,
          asked: page.performance.getEntriesByType("resource").map((entry) => entry.name),
        }));
        document.body.replaceChildren();
        document.body.dataset.found = JSON.stringify(found);
      };
      // Frames come in real time, virtual time runs ahead of it: work takes up real time until two frames have come.
      let frames = 0;
      const count = () => { frames += 1; requestAnimationFrame(count); };
      const readAfterFrames = (left) => {
        if (frames > 1 || left === 0) return read();
        for (let i = 0; i < 300000; i++) document.title;
        setTimeout(readAfterFrames, 10, left - 1);
      };
      setTimeout(() => { requestAnimationFrame(count); readAfterFrames(200); }, LATE);
    });
    """.replace("SCRIPT", script).replace("LATE", str(LATE))
    outer = folder / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body>{"".join(frames)}<script>{driver}</script></body>',
        encoding="utf-8",
    )
    dump = command(folder / "profile", f"--virtual-time-budget={BUDGET}", "--dump-dom", outer.as_uri())
    done = subprocess.run(dump, capture_output=True, timeout=120, check=True)
    written = re.search(r'data-found="([^"]*)"', done.stdout.decode())
    assert written, f"the browser ended before the pages were driven: {done.stderr.decode()[-500:]}"
    found = json.loads(html.unescape(written[1]))
    assert len(found) == len(pages)
    return dict(zip(pages, found, strict=True))

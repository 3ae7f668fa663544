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

# Each page has a frame of its own, in which its errors are collected from the first script on.
COLLECT = (
    "<script>window.problems = [];"
    'for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"]) addEventListener(kind, (event) => '
    "problems.push(String(event.message || event.reason || event.blockedURI || event.target.src || event.type)), true);"
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

    Returns, by name: {"said": what the script returned, "problems": errors of the page's own scripts and those
    of the drive, "asked": addresses that the page loaded}.
    """
    frames = [
        f'<iframe width="1100" height="1400" srcdoc="{html.escape(text.replace("<head>", "<head>" + COLLECT, 1))}">'
        "</iframe>"
        for text in pages.values()
    ]
    driver = """
    addEventListener("load", () => {
      const drive = (page, document) => { SCRIPT };
      const found = [...document.querySelectorAll("iframe")].map(({contentWindow: page}) => {
        let said = null;
        try { said = drive(page, page.document); } catch (error) { page.problems.push(String(error)); }
        return {said, problems: page.problems, asked: page.performance.getEntriesByType("resource").map((e) => e.name)};
      });
      document.body.replaceChildren();
      document.body.dataset.found = JSON.stringify(found);
    });
    """.replace("SCRIPT", script)
    outer = folder / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body>{"".join(frames)}<script>{driver}</script></body>',
        encoding="utf-8",
    )
    dump = command(folder / "profile", "--dump-dom", outer.as_uri())
    done = subprocess.run(dump, capture_output=True, timeout=120, check=True)
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', done.stdout.decode())[1]))
    assert len(found) == len(pages)
    return dict(zip(pages, found, strict=True))

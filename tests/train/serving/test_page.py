"""The page to chat in: one file that needs nothing from elsewhere, shows text as text, and works in a browser."""

import os
import queue
import re
import signal
import subprocess

import pytest
from starlette.responses import Response
from starlette.routing import Route

from tests.train.generation.engines import FakeEngine, spelling
from tests.train.report.browser import command, needs_browser
from tests.train.report.pages import NASTY
from tests.train.serving.servers import served, serving
from train.serving.page import page

# What a person does, after the page's own script; then the page reports itself.
DRIVER = """<script type="module">
at("system") && (at("system").value = "be kind");
at("text").value = "hello <b>you</b>";
at("form").requestSubmit();
while (stopping) await new Promise(done => setTimeout(done, 20));
await fetch("report", { method: "POST", body: document.documentElement.outerHTML });
</script></body>"""


def look(server, folder):
    """The page's DOM in a browser, after it was driven; the browser is offline but for the server."""
    reports = queue.Queue()

    async def report(request):
        reports.put((await request.body()).decode())
        return Response()

    application = server.server.application
    application._page = application._page.replace("</body>", DRIVER)
    application.asgi.router.routes.append(Route("/report", report, methods=["POST"]))
    # A page that stays: a browser without a window ends after a dump, and a picture is no news from the page.
    stays = command(folder, "--remote-debugging-port=0", f"http://127.0.0.1:{server.port}/")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # The command may be a script whose child is the browser: both end by their group.
    browser = subprocess.Popen(stays, **silent, start_new_session=True)
    try:
        return reports.get(timeout=60)
    finally:
        os.killpg(browser.pid, signal.SIGTERM)
        browser.wait(20)


def turns(dom):
    return re.findall(r'<div class="turn (\w+)" data-who="([^"]*)">([^<]*)</div>', dom)


@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_the_page_is_one_file(template):
    text = page(served(template=template), needs_key=False)
    assert not re.findall(r"""(?:src|href)=["'](?!data:,)""", text)
    assert "http:" not in text
    assert "https:" not in text
    assert ('id="system"' in text) == (template is not None)
    assert "context of 64 tokens" in text


def test_a_name_is_text_and_a_key_has_a_field():
    model = served()
    text = page(type(model)(**{**vars(model), "name": NASTY}), needs_key=True)
    assert "<script>alert" not in text
    assert 'id="key"' in text
    assert 'id="key"' not in page(model, needs_key=False)


def test_the_page_comes_with_a_policy(running):
    status, headers, text = running.ask("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert text.startswith("<!DOCTYPE html>")


@needs_browser
def test_a_chat_in_a_browser(tmp_path):
    with serving(FakeEngine(spelling("I am <i>well</i> 漢🙂.", end=256), context=400), served(context=400)) as server:
        dom = look(server, tmp_path)
        assert turns(dom) == [
            ("user", "you", "hello &lt;b&gt;you&lt;/b&gt;"),
            ("assistant", "tiny", "I am &lt;i&gt;well&lt;/i&gt; 漢🙂."),
        ]
        assert re.search(r'id="numbers">\d+ \+ 26 tokens, first after [\d.]+ s, [\d.]+ tokens/s<', dom)
        prompt = bytes(server.engine.seen[0].prompt).decode()
        assert prompt == "system: be kind\nuser: hello <b>you</b>\nassistant: "


@pytest.mark.sweep
@needs_browser
@pytest.mark.parametrize("template", [None, "{{ raise_exception('not today') }}"])
def test_other_pages_in_a_browser(tmp_path, template):
    with serving(FakeEngine(spelling(" there.", end=256)), served(template=template)) as server:
        found = turns(look(server, tmp_path))
    if template is None:
        assert found[1] == ("assistant", "tiny", " there.")
    else:
        assert found[1][0] == "error"
        assert "refuses these messages: not today" in found[1][2]

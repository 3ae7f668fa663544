"""Google Cloud's notices, from a server on this machine that answers as its metadata server does."""

import http.server
import threading
import time
import urllib.parse

import pytest

from train.loop import train
from train.process import maintenance
from train.process.maintenance import maintenance_watch
from train.process.stop import Stop


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers when a value is not the one that the client knows by its tag, or after timeout_sec."""

    def do_GET(self):
        server, parts = self.server, urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        server.asked.append((parts.path, self.headers.get("Metadata-Flavor"), query["last_etag"]))
        if server.failures:
            server.failures -= 1
            self.send_error(503)
            return
        name = parts.path.rpartition("/")[2]
        with server.changed:
            server.changed.wait_for(lambda: str(hash(server.values[name])) != query["last_etag"], 5)
            value = server.values[name]
        self.send_response(200)
        self.send_header("ETag", str(hash(value)))
        self.end_headers()
        self.wfile.write(value.encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def metadata(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.daemon_threads = True
    server.values, server.changed = {"maintenance-event": "NONE", "preempted": "FALSE"}, threading.Condition()
    server.asked, server.failures = [], 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    monkeypatch.setattr(maintenance, "_RETRY_SECONDS", 0.02)
    yield server
    server.shutdown()
    server.server_close()


def notice(server, name, value):
    with server.changed:
        server.values[name] = value
        server.changed.notify_all()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize(
    ("name", "value"), [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")]
)
def test_a_notice_requests_the_stop(name, value, metadata):
    metadata.failures = 2  # the server may be busy for a while
    stop = Stop()
    with maintenance_watch(stop):
        wait_for(lambda: any(tag not in ("0", "") for _, _, tag in metadata.asked))  # they wait for a change
        assert stop.requested is None
        notice(metadata, name, value)
        wait_for(lambda: stop.requested is not None)
    assert stop.requested == f"Google Cloud's notice {name}: {value}"
    path, flavour, _ = metadata.asked[0]
    assert path.startswith("/computeMetadata/v1/instance/")
    assert flavour == "Google"


def test_the_first_request_stays_and_the_end_of_the_watch_ends_it(metadata):
    stop = Stop()
    stop.requested = "SIGTERM"
    with maintenance_watch(stop):
        notice(metadata, "preempted", "TRUE")
        time.sleep(0.2)
    assert stop.requested == "SIGTERM"
    late = Stop()
    with maintenance_watch(late):
        pass
    notice(metadata, "maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
    time.sleep(0.2)
    assert late.requested is None


def test_without_a_server_nothing_happens(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    stop = Stop()
    with maintenance_watch(stop):
        time.sleep(0.1)
    assert stop.requested is None


def test_a_run_saves_and_ends(metadata, tiny_experiment, tmp_path):
    notice(metadata, "maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
    stop = Stop()
    with maintenance_watch(stop):
        wait_for(lambda: stop.requested is not None)
        outcome = train(tiny_experiment(), tmp_path / "run", say=lambda line: None, stop=stop)
    assert outcome.state == "interrupted"
    assert "TERMINATE_ON_HOST_MAINTENANCE; the same command continues" in outcome.reason


def test_it_is_off_but_on_google_clouds_tpus(tmp_path, monkeypatch):
    assert not maintenance.on_cloud_tpu()
    (tmp_path / "product").write_text("Google Compute Engine\n")
    monkeypatch.setattr(maintenance, "_PRODUCT", tmp_path / "product")
    assert not maintenance.on_cloud_tpu()
    monkeypatch.setattr("jax.default_backend", lambda: "tpu")
    assert maintenance.on_cloud_tpu()
    monkeypatch.setattr(maintenance, "_PRODUCT", tmp_path / "missing")
    assert not maintenance.on_cloud_tpu()

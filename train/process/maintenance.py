"""Google Cloud's notices that it is about to take a host away, as requests to stop.

The metadata server of a virtual machine answers at two paths: `maintenance-event` changes from NONE a minute or more
before maintenance, `preempted` from FALSE when a spot machine is taken. TPU VMs are not migrated: maintenance ends
them. A thread waits for a change of both. (jax's own preemption service knows SIGTERM only.)

In GKE the node gets the notice, and the pods SIGTERM.
"""

import contextlib
import http.client
import os
import pathlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

from train.process.stop import Stop

# {path under instance/: the value of every day}
_USUAL = {"maintenance-event": "NONE", "preempted": "FALSE"}
_HOST = "metadata.google.internal"  # or $GCE_METADATA_HOST, as for Google's own libraries
_WAIT_SECONDS, _RETRY_SECONDS = 60, 10.0
_PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")


def on_cloud_tpu() -> bool:
    """Whether this process has TPUs, on a virtual machine of Google Cloud."""
    import jax

    with contextlib.suppress(OSError):
        return "Google" in _PRODUCT.read_text() and jax.default_backend() == "tpu"
    return False


@contextlib.contextmanager
def maintenance_watch(stop: Stop) -> Iterator[None]:
    """Inside the context a notice sets the request to stop, unless there is one already."""
    closed = threading.Event()
    for path in _USUAL:
        threading.Thread(target=_watch, args=(path, stop, closed), name=f"watch-{path}", daemon=True).start()
    try:
        yield
    finally:
        closed.set()


def _watch(path: str, stop: Stop, closed: threading.Event) -> None:
    host = os.environ.get("GCE_METADATA_HOST", _HOST)
    url, tag = f"http://{host}/computeMetadata/v1/instance/{path}", "0"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this address
    while not closed.is_set():
        query = f"?wait_for_change=true&timeout_sec={_WAIT_SECONDS}&last_etag={tag}"
        request = urllib.request.Request(url + query, headers={"Metadata-Flavor": "Google"})
        try:
            with opener.open(request, timeout=_WAIT_SECONDS + 10) as answer:
                value, before = answer.read().decode(errors="replace").strip(), tag
                tag = answer.headers.get("ETag", "0")
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            closed.wait(_RETRY_SECONDS)  # the server is busy, or there is none
            continue
        if value != _USUAL[path] and not closed.is_set():
            stop.requested = stop.requested or f"Google Cloud's notice {path}: {value}"
            return
        if tag == before:
            closed.wait(1)  # it answered without waiting for a change

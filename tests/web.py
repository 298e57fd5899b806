"""A web server on loopback, for as long as a test takes."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager


@contextmanager
def served(handler):
    """Serve requests with a handler's class; the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()

"""A client gets what the retriever gives, waits as long as a busy server asks it to, and says what went wrong in the server's words."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import twotower as tt
from serving import serving
from twotower.bundle import load

KEY = "a-key-for-the-tests-of-clients"


@pytest.fixture(scope="module")
def retriever(world_folder):
    return load(world_folder)


@pytest.fixture(scope="module")
def client(world_folder):
    with serving(world_folder, keys=(KEY,)) as called:
        yield tt.Client(called.url, KEY)


def test_a_client_gets_what_the_retriever_gives(client, retriever):
    own = retriever.search("subject3", k=4, where="price < 40")
    assert [each["id"] for each in client.search("subject3", k=4, where="price < 40")["results"]] == own.ids.tolist()
    assert [len(one) for one in client.search(queries=["subject3", "subject4"], k=2)["results"]] == [2, 2]
    assert [each["id"] for each in client.similar(1000, k=2)["results"]] == retriever.similar(1000, k=2).ids.tolist()
    np.testing.assert_allclose(client.score("subject3", [1000, 1001]), retriever.score(["subject3"] * 2, [1000, 1001]), atol=1e-6)
    np.testing.assert_allclose(client.embed("subject3"), retriever.embed_queries("subject3")[0], atol=1e-6)
    assert len(client.embed(queries=["subject3", "subject4"])) == 2
    assert client.item(1000)["id"] == 1000 and client.info()["variants"][0]["items"] == len(retriever)


def test_threads_share_a_client(client):
    wanted, found = client.search("subject3")["results"], []
    threads = [threading.Thread(target=lambda: found.append(client.search("subject3")["results"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[each["id"] for each in one] for one in found] == [[each["id"] for each in wanted]] * 8


def test_what_is_wrong_is_said_as_the_server_says_it(client):
    with pytest.raises(tt.Unanswered, match="filter") as caught:
        client.search("subject3", where="colour = 3")
    assert caught.value.status == 422 and len(caught.value.request_id) == 16
    with pytest.raises(tt.Unanswered, match="no such item"):
        client.item("a/b")
    with pytest.raises(ValueError, match="JSON"):
        client.search("x", threshold=float("nan"))
    with pytest.raises(tt.ConfigError, match="no address"):
        tt.Client("ftp://x")
    with pytest.raises(tt.Unanswered, match="does not answer"):
        tt.Client("http://127.0.0.1:9", tries=1).info()


def test_a_wrong_key_is_said(world_folder):
    with serving(world_folder, keys=(KEY,)) as called, pytest.raises(tt.Unanswered, match="key is needed"):
        tt.Client(called.url, "another-key-that-is-wrong").info()


def test_a_busy_server_is_asked_again(world_folder):
    with serving(world_folder, keys=(KEY,), rate=1.0) as called:
        client = tt.Client(called.url, KEY)
        assert [client.info()["variants"][0]["variant"] for _ in range(3)] == ["default"] * 3
        hasty = tt.Client(called.url, KEY, tries=1)
        with pytest.raises(tt.Unanswered, match="more often") as caught:
            [hasty.info() for _ in range(3)]
        assert caught.value.status == 429


def test_a_connection_that_was_closed_is_opened_again(world_folder):
    with serving(world_folder) as called:
        client = tt.Client(called.url)
        client.info()
        client._open.connection.sock.close()
        assert client.info()


class Elsewhere(BaseHTTPRequestHandler):
    """A proxy that is busy until a date, and a page where a server was."""

    def do_GET(self):
        self.send_response(503 if self.path == "/readyz" else 200)
        self.send_header("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *told):
        pass


def test_what_is_no_server_is_said(monkeypatch):
    waited = []
    monkeypatch.setattr("twotower.client.time.sleep", waited.append)
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = tt.Client(f"http://127.0.0.1:{server.server_port}", tries=2)
        with pytest.raises(tt.Unanswered, match="answered 503"):
            client.ask("/readyz")
        assert waited == [1.0]
        with pytest.raises(tt.Unanswered, match="no twotower server"):
            client.info()
        client._close()
        server.shutdown()


def test_a_key_or_an_address_that_cannot_be_is_said_and_never_repeated(world_folder):
    for url, key in [("http://x", "hidden\r\nhidden"), ("http://x", "hidd\u0142n"), ("http://me:hidden@x", None), ("http://x/?key=hidden", None)]:
        with pytest.raises(tt.ConfigError) as caught:
            tt.Client(url, key)
        assert "hid" not in str(caught.value)
    for url in ("http://localhost:99999", "http://localhost:no", "http://"):
        with pytest.raises(tt.ConfigError, match="no address"):
            tt.Client(url)
    with serving(world_folder, keys=(KEY,)) as called:
        assert tt.Client(called.url, f"{KEY}\n").info()  # as a file ends


def test_a_client_loads_nothing_but_itself():
    code = "import sys, twotower as tt; tt.Client('http://localhost'); print(sorted({'numpy', 'pyarrow', 'torch', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

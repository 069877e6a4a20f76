"""Who may ask what, and what is kept of it: nothing. And no answer is of two versions."""

import atexit
import base64
import contextlib
import io
import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from http.client import HTTPException
from pathlib import Path
from types import SimpleNamespace

from serving import Held, serving
from twotower.app import cli
from twotower.app.cli.serving import LEVELS
from twotower.app.server import launch, versions
from twotower.app.server.logs import Lines
from twotower.app.server.routes import ROUTES
from twotower.bundle import load, publish, rollback

KEY = "a-key-for-the-tests-of-safety"
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]
PATHS = {route.path: route.path.format(id="1000", name="page.js") for route in ROUTES}


def test_every_route_method_and_path_needs_key_and_host_before_any_work(world_folder, monkeypatch):
    worked = []
    monkeypatch.setattr(launch, "answer", lambda jobs: worked.append(jobs))
    right = {"authorization": f"Bearer {KEY}"}
    wrong_keys = [{}, {"authorization": "Bearer wrong-key-wrong-key-wrong"}, {"authorization": "Bearer"}, {"authorization": f"Token {KEY}"}]
    wrong_keys += [{"authorization": "Basic " + base64.b64encode(b"ann:wrong").decode()}, {"x-api-key": KEY}, {"cookie": f"authorization={KEY}"}]
    with serving(world_folder, keys=(KEY,)) as locked:
        for path, method in itertools.product(PATHS.values(), METHODS):
            for headers in wrong_keys:
                expected = 200 if path == "/livez" and method in ("GET", "HEAD") else 405 if path == "/livez" else 401
                answer = locked.ask(method, path, {"query": "x"} if method == "POST" else None, **headers)
                assert answer.status == expected, (method, path, headers)
            for host in ("evil.example", "localhost.evil.example", "10.0.0.1"):
                assert locked.ask(method, path, {"query": "x"} if method == "POST" else None, host=host, **right).status == 421, (method, path, host)
            for odd in ("/" + path, path + "/", path.upper(), path + "%00", path + "/..", path.replace("/", "/./", 1)):
                if odd in ("//", "/", "/./") or odd.startswith(("/items/", "/page/")):
                    continue
                body = {"query": "x"} if method == "POST" else None
                assert locked.ask(method, odd, body, **right).status == 404, (method, odd)
                assert locked.ask(method, odd, body).status == 401, (method, odd)
                assert locked.ask(method, odd, body, host="evil.example").status == 421, (method, odd)
            for hosts in ("", "host: localhost\r\nhost: localhost\r\n", "host: localhost\r\nhost: evil.example\r\n"):
                head = f"{method} {path} HTTP/1.1\r\n{hosts}authorization: Bearer {KEY}\r\nconnection: close\r\n\r\n"
                assert locked.raw(head.encode()).startswith(b"HTTP/1.1 421 "), (method, path, hosts)
        for name in ("page.py", "__init__.py", "..%2fserver%2fgate.py", "%2e%2e"):
            assert locked.ask("GET", f"/page/{name}", **right).status == 404
        assert not worked


def marks():
    """Marks that occur nowhere else, one after another."""
    for number in itertools.count():
        yield f"MARK{number:05d}qz"


def test_no_mark_that_is_sent_is_found_again(world_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text, mark = io.StringIO(), marks()
    handler = Lines(text)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("twotower", "uvicorn", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(LEVELS["requests"])
    answers = []
    try:
        with serving(world_folder) as called:
            for body in bodies(mark):
                for path in ("/search", "/similar", "/score", "/embed"):
                    answers.append(called.ask("POST", path, body))
            for _ in range(50):
                answers += [
                    called.ask("GET", f"/{next(mark)}"),
                    called.ask("GET", f"/items/{next(mark)}"),
                    called.ask("GET", f"/items/1000?{next(mark)}={next(mark)}"),
                    called.ask("GET", f"/items/1000?variant={next(mark)}"),
                    called.ask("GET", "/info", **{next(mark): next(mark)}),
                    called.ask("GET", "/info", host=f"{next(mark)}.example", user_agent=next(mark), referer=next(mark)),
                    called.ask("POST", "/search", f'{{"query": "{next(mark)}'.encode(), authorization=f"Bearer {next(mark)}"),
                    called.ask("POST", "/search", {"query": next(mark)}, content_type=next(mark)),
                    called.ask("POST", "/search", {"query": next(mark)}, x_request_id=next(mark), traceparent=next(mark)),
                    called.ask("GET", "/info", accept=next(mark), cookie=next(mark)),
                ]
            answers.append(called.ask("GET", "/metrics"))
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
        handler.close()
    assert int(next(mark)[4:9]) >= 1000
    assert text.getvalue().count("\n") >= len(answers)
    assert "MARK" not in text.getvalue().upper()
    assert not [answer for answer in answers if b"MARK" in answer.body.upper() or "MARK" in str(answer.headers).upper()]
    assert not any("MARK" in path.name or b"MARK" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def bodies(mark):
    """Bodies with a mark in every field, in every form."""
    fields = ["query", "queries", "history", "k", "mode", "threshold", "where", "allow", "deny", "exclude", "skip", "diversity", "repeats", "variant"]
    fields += ["key", "explain", "item", "items", "pairs"]
    for field in fields:
        for shape in (
            lambda m: m,
            lambda m: [m],
            lambda m: {m: m},
            lambda m: [{m: m}],
            lambda m: {"and": [{m: m}]},
            lambda m: {"asked": m},
            lambda m: [[m]],
        ):
            yield {"query": "subject3", field: shape(next(mark))}
    for where in ("{} = 1", "price < '{}'", "title == '{}", "price {} 5", "`{}` < 5", "price in ['{}', 5]", "not {}", "{}"):
        yield {"query": next(mark), "where": where.format(next(mark))}
    for where in ({"price": {"lt": "{}"}}, {"price": {"{}": 5}}, {"{}": {"lt": 5}}, {"price": {"in": ["{}"]}}, {"{}": None}):
        yield {"query": "x", "where": eval_marks(where, mark)}
    for _ in range(20):
        yield {next(mark): next(mark)}
        yield {"query": {next(mark): next(mark)}, "key": next(mark)}
        yield {"item": next(mark)}


def eval_marks(value, mark):
    """The value with a mark in each pair of braces."""
    if isinstance(value, dict):
        return {eval_marks(name, mark): eval_marks(each, mark) for name, each in value.items()}
    if isinstance(value, list):
        return [eval_marks(each, mark) for each in value]
    return next(mark) if value == "{}" else value


def test_a_fault_of_ours_tells_the_log_where_and_nobody_what(world_folder, monkeypatch, caplog):
    monkeypatch.setattr(launch, "answer", lambda jobs: 1 / len(jobs[0].asked.query.replace("MARKED", "")))
    with serving(world_folder) as called, caplog.at_level(logging.ERROR):
        answer = called.ask("POST", "/search", {"query": "MARKED"})
    assert answer.status == 500 and answer.headers["content-type"] == "application/problem+json" and "MARKED" not in answer.body.decode()
    assert "ZeroDivisionError at test_server_safety.py" in caplog.text and "MARKED" not in caplog.text


# --- versions -----------------------------------------------------------------------------------------------------


def marked_bundle(world_folder: Path, folder: Path) -> Path:
    """A bundle whose every version says in each item which one it is, by its price."""
    place = shutil.copytree(world_folder / "bundle", folder)
    price(place, 1)
    return place


def price(place: Path, number: int) -> str:
    """Write a version in which every item costs so much."""
    retriever = load(place)
    return retriever.update_items([{"name": name, "price": float(number)} for name in retriever.items.column("_id").to_pylist()]).version


def test_answers_under_switches_are_each_of_one_version(world_folder, tmp_path):
    place = marked_bundle(world_folder, tmp_path / "bundle")
    prices = {load(place).bundle.version: 1.0}
    seen, wrong, done = set(), [], threading.Event()
    with serving(place, watch=0.05) as called:

        def ask():
            while not done.is_set():
                answer = called.ask("POST", "/search", {"queries": ["subject3", "subject5"], "k": 5})
                told = answer.json
                found = {each["item"]["price"] for one in told.get("results", []) for each in one}
                seen.add(told.get("version"))
                if answer.status != 200 or found != {prices[told["version"]]}:
                    wrong.append((answer.status, told))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(2, 10):
            following = f"{max(map(int, prices)) + 1:06d}"
            prices[following] = float(number)
            assert price(place, number) == following
            until(lambda following=following: following in seen)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong and len(seen) == 9
        back = rollback(place, "3")
        until(lambda: called.post("/search", query="subject3")["version"] == back)
        assert 'twotower_version{model="' in called.ask("GET", "/metrics").body.decode()


def test_a_request_that_waits_while_versions_switch_has_the_answer_of_its_own(world_folder, tmp_path, monkeypatch):
    place = marked_bundle(world_folder, tmp_path / "bundle")
    worker, answers = Held(monkeypatch), []
    with serving(place, watch=0.05) as called:
        thread = threading.Thread(target=lambda: answers.append(called.post("/search", query="subject3", k=36)))
        thread.start()
        assert worker.begun.wait(20)
        following = price(place, 7)
        until(lambda: f'version="{following}"' in called.ask("GET", "/metrics").body.decode())
        worker.let_go()
        thread.join()
        answers.append(called.post("/search", query="subject3", k=36))
    assert [(told["version"], {each["item"]["price"] for each in told["results"]}) for told in answers] == [("000002", {1.0}), (following, {7.0})]


def until(met, seconds=20):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_a_new_model_takes_over_and_one_that_fails_does_not(world_folder, tmp_path, caplog):
    import twotower as tt
    from conftest import WORLD_CONFIG, planted_world

    other = tt.train(*planted_world(), config={**WORLD_CONFIG, "train": {**WORLD_CONFIG["train"], "seed": 3}}, output=tmp_path / "other").folder
    publish(world_folder, tmp_path / "served")
    with serving(tmp_path / "served", watch=0.05) as called, caplog.at_level(logging.WARNING):
        first = called.post("/search", query="subject3")["model"]
        second = publish(other, tmp_path / "served").name
        until(lambda: called.post("/search", query="subject3")["model"] == second != first)
        # Somebody writes nonsense where the pointer is, and later a model that reads otherwise than it did.
        (tmp_path / "served" / "LIVE").write_text("nonsense\n")
        until(lambda: "cannot serve" in caplog.text)
        assert called.post("/search", query="subject3")["model"] == second
        golden = tmp_path / "served" / "bundles" / first / "model" / "golden.json"
        golden.write_text(golden.read_text().replace("0.", "1."))
        (tmp_path / "served" / "LIVE").write_text(f"{first}\n")
        time.sleep(0.3)
        assert called.post("/search", query="subject3")["model"] == second
        assert 'answers="false"' in called.ask("GET", "/metrics").body.decode()


def test_what_cannot_serve_is_not_loaded_again_and_again(world_folder, tmp_path, monkeypatch, caplog):
    a, b = (shutil.copytree(world_folder / "bundle", tmp_path / name) for name in "ab")
    variants, clock, loaded, broken = versions.Variants({"a": a, "b": b}), [0.0], [], {"a"}
    ready = versions.served

    def served(name, retriever):
        loaded.append(name)
        return ready(name, retriever) if name not in broken else {}["no such column"]

    monkeypatch.setattr(versions, "served", served)
    monkeypatch.setattr(versions, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    second, _ = price(a, 2), price(b, 2)
    with caplog.at_level(logging.WARNING):
        assert variants.renew() == [("a", False), ("b", True)]  # whatever is wrong with one, the other is renewed
        for _ in range(50):
            clock[0] += 1
            assert variants.renew() == []
        assert loaded == ["a", "b"]
        clock[0] += 50
        assert variants.renew() == [] and loaded == ["a", "b", "a"]  # tried once more, and said once
    assert caplog.text.count("cannot serve") == 1 and "KeyError at test_server_safety.py" in caplog.text
    third = price(a, 3)
    assert variants.renew() == [("a", False)] and len(loaded) == 4  # another version is tried at once
    rollback(a, second)
    assert variants.renew() == [("a", False)]
    broken.clear()
    rollback(a, third)
    assert variants.renew() == [("a", True)] and variants.now["a"].version == third


def test_a_server_ends_though_a_request_and_a_new_version_take_long(world_folder, tmp_path, monkeypatch):
    place, worker = shutil.copytree(world_folder / "bundle", tmp_path / "bundle"), Held(monkeypatch)
    loading, loaded = threading.Event(), threading.Event()
    ready = versions.served

    def slowly(name, retriever):
        if retriever.bundle.version != "000001":
            loading.set()
            loaded.wait(20)
        return ready(name, retriever)

    def ask(called):
        with contextlib.suppress(OSError, HTTPException):
            called.ask("POST", "/search", {"query": "subject3"})

    monkeypatch.setattr(versions, "served", slowly)
    try:
        with serving(place, watch=0.05, drain=1.0) as called:
            threading.Thread(target=ask, args=(called,), daemon=True).start()
            price(place, 2)
            assert worker.begun.wait(20) and loading.wait(20)
            begun = time.monotonic()
        assert time.monotonic() - begun < 10
    finally:
        worker.let_go()
        loaded.set()


def test_a_command_does_not_take_the_interpreter_down_under_a_thread(monkeypatch):
    worked, ended = threading.Event(), []
    monkeypatch.setattr(cli, "main", lambda: threading.Thread(target=worked.wait, args=(20,), daemon=True).start())
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    cli.command()
    worked.set()
    assert ended == [0]


def test_a_server_writes_nothing(world_folder, tmp_path):
    place = shutil.copytree(world_folder, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with serving(place, watch=0.05) as called:
        called.post("/search", query="subject3", explain=True, where="price < 50")
        called.post("/similar", item=1000)
        for path in ("/info", "/card", "/metrics", "/", "/items/1000"):
            assert called.ask("GET", path).status == 200
        time.sleep(0.2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

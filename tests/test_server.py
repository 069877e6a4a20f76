"""A server answers as the bundle does that it serves, refuses what is not to be worked for, and says so without a word of what came."""

import asyncio
import base64
import itertools
import json
import re
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

import twotower as tt
from conftest import WORLD_CONFIG
from serving import Held, serving
from twotower.app.server import answering
from twotower.app.server.connections import Joined
from twotower.app.server.gathering import Job
from twotower.app.server.options import Keys, ServeOptions, check_options, read_keys
from twotower.app.server.problems import Problem
from twotower.app.server.versions import served
from twotower.app.server.wire import EmbedBody, ScoreBody, SearchBody, read_body, read_json
from twotower.bundle import Retriever, load
from twotower.bundle.reasons import reasons
from twotower.errors import ConfigError
from twotower.search.lexical import Lexical

KEY, OTHER = "one-key-of-many-characters", "another-key-of-as-many"


@pytest.fixture(scope="module")
def retriever(world_folder):
    return load(world_folder)


@pytest.fixture(scope="module")
def called(world_folder):
    with serving(world_folder) as server:
        yield server


# --- answers ------------------------------------------------------------------------------------------------------


def test_a_search_is_the_retrievers(called, retriever):
    for options in (
        {},
        {"k": 3},
        {"skip": 2, "k": 2},
        {"mode": "words"},
        {"where": "price < 30"},
        {"where": {"price": {"lt": 30}}},
        {"deny": [1000, 1003]},
    ):
        told, own = called.post("/search", query="subject3 sort1", **options), retriever.search("subject3 sort1", **options)
        there = own.rows >= 0
        assert [each["id"] for each in told["results"]] == own.ids[there].tolist()
        np.testing.assert_allclose([each["score"] for each in told["results"]], own.scores[there], atol=1e-6)
        shown = retriever.show(own.rows)
        assert [each["item"] for each in told["results"]] == [{name: value for name, value in row.items() if name != "_id"} for row in shown]
    assert told["model"] == retriever.bundle.fingerprint[:16] and told["version"] == "000001" and told["variant"] == "default"


def test_several_queries_have_a_list_each(called, retriever):
    asked = ["subject3 sort1", "subject7", "subject1 noise2"]
    told = called.post("/search", queries=asked, k=4, exclude=[[1000], [], [1001]])
    own = retriever.search(asked, k=4, exclude=[[1000], [], [1001]])
    assert [[each["id"] for each in one] for one in told["results"]] == own.ids.tolist()
    assert len(called.post("/search", queries=["subject3"], k=2)["results"]) == 1


def test_columns_may_be_named(called):
    assert called.post("/search", query={"asked": "subject3"})["results"] == called.post("/search", query="subject3")["results"]


def test_what_is_like_an_item(called, retriever):
    told = called.post("/similar", item=1000, k=3)
    assert [each["id"] for each in told["results"]] == retriever.similar(1000, k=3).ids.tolist()
    assert [each["id"] for each in called.post("/similar", items=[1000, "1003"], k=3)["results"]] == retriever.similar([1000, 1003], k=3).ids.tolist()


def test_scores_and_vectors(called, retriever):
    scores = called.post("/score", query="subject3", items=[1000, 1005])["scores"]
    np.testing.assert_allclose(scores, retriever.score(["subject3"] * 2, [1000, 1005]), atol=1e-6)
    np.testing.assert_allclose(called.post("/score", pairs=[{"query": "subject3", "item": 1000}])["scores"], scores[:1], atol=1e-6)
    vector = called.post("/embed", query="subject3")["vector"]
    np.testing.assert_allclose(vector, retriever.embed_queries("subject3")[0], atol=1e-6)
    assert called.post("/embed", queries=["subject3"])["vectors"] == [vector]
    row = {name: value for name, value in retriever.show([0])[0].items() if name in retriever.encoder.columns("item")}
    np.testing.assert_allclose(called.post("/embed", item=row)["vector"], retriever.embed_items([row])[0], atol=1e-6)


def test_why_an_item_was_found(called, retriever):
    for mode in ("vectors", "words", "hybrid"):
        for each in called.post("/search", query="subject3 sort1", k=5, mode=mode, explain=True)["results"]:
            why = each["why"]
            assert why["vectors"] == pytest.approx(each["score"], abs=1e-5)
            assert (why["words"] is None) == (mode == "vectors")
            text = str(each["item"])
            assert all(word in text for word in why["shared"])


@pytest.mark.parametrize("mode", ["words", "hybrid"])
def test_reasons_are_found_for_some_queries_at_a_time(retriever, monkeypatch, mode):
    asked = [f"subject{n % 12} sort{n % 3}" for n in range(10)]
    found, scores, sizes = retriever.search(asked, k=40, mode=mode), Lexical.scores, []
    whole = reasons(retriever, asked, found.rows, mode=mode)
    monkeypatch.setattr(Lexical, "scores", lambda self, texts: sizes.append(len(texts)) or scores(self, texts))
    monkeypatch.setattr("twotower.bundle.reasons.SCORES_AT_ONCE", 4 * len(retriever) + 1)
    parts = reasons(retriever, asked, found.rows, mode=mode)
    assert sizes == [4, 4, 2]
    for one, other in zip(itertools.chain(*whole), itertools.chain(*parts), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shared == other.shared and (one.vectors, one.words) == pytest.approx((other.vectors, other.words), abs=1e-5)


def test_an_item_by_its_id(called, retriever):
    told = called.ask("GET", "/items/1000").json
    assert told["id"] == 1000 and told["item"] == {name: value for name, value in retriever.show([0])[0].items() if name != "_id"}
    for name in ("nothing", "%0A", "a%2Fb", "%F0%9F%98%80", "..", "%25"):
        answer = called.ask("GET", f"/items/{name}")
        assert answer.status == 404 and answer.json["detail"] == "the catalogue has no such item"
    assert called.ask("GET", "/items/%FF").status == 422


def test_requests_at_once_have_the_answers_that_they_have_alone(called):
    asked = [f"subject{n % 12} sort{n % 3}" for n in range(60)]
    alone = [called.post("/search", query=query, k=3)["results"] for query in asked]
    together: list = [None] * len(asked)

    def ask(place):
        # Some cannot be answered: what stands beside them in a batch is.
        together[place] = called.ask("POST", "/search", {"query": asked[place] if place % 7 else "  ", "k": 3})

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, answer in enumerate(together):
        if place % 7:
            assert [each["id"] for each in answer.json["results"]] == [each["id"] for each in alone[place]]
            np.testing.assert_allclose([each["score"] for each in answer.json["results"]], [each["score"] for each in alone[place]], atol=1e-5)
        else:
            assert answer.status == 422
    batches = [line for line in called.ask("GET", "/metrics").body.decode().splitlines() if line.startswith("twotower_batch_size_bucket")]
    assert batches[0] != batches[-1].replace("+Inf", "1.0")


def test_what_is_wrong_with_one_of_a_batch_is_told_to_that_one(retriever, monkeypatch, caplog):
    version = served("default", retriever)

    def answers(*bodies):
        told = answering.answer([Job(version, SearchBody(query="subject3", **body), 0.0, None) for body in bodies])
        return [each.status if isinstance(each, Problem) else 200 for each in told]

    assert answers({}, {"where": "colour = 3"}, {"where": "colour = 3"}, {}) == [200, 422, 422, 200]
    assert answers({}, {"where": ""}, {"where": {}}, {"allow": []}) == [200, 422, 422, 200]
    assert answers({"mode": "words"}, {"mode": "words"}, {"history": [1]}, {"history": [2]}) == [200, 200, 422, 422]
    search = Retriever.search
    monkeypatch.setattr(Retriever, "search", lambda self, queries, k, **options: search(self, queries, k, **options) if k != 7 else 1 / 0)
    assert answers({}, {"k": 7}, {"k": 7}, {}) == [200, 500, 500, 200]
    assert "ZeroDivisionError at test_server.py" in caplog.text


def test_what_a_query_lacks_is_said_whatever_stands_beside_it(world, tmp_path):
    pairs, items = world
    features = [*WORLD_CONFIG["query"]["features"], {"column": "device", "type": "category"}]
    config = {**WORLD_CONFIG, "query": {"features": features}, "train": {**WORLD_CONFIG["train"], "epochs": 1}}
    pairs = pairs.append_column("device", pa.array(["tv", "phone"] * (len(pairs) // 2)))
    version = served("default", load(tt.train(pairs, items, config=config, output=tmp_path / "run").folder))

    def answers(*queries):
        told = answering.answer([Job(version, SearchBody(query=query), 0.0, None) for query in queries])
        return [each.status if isinstance(each, Problem) else 200 for each in told]

    whole, lacking = {"asked": "subject3", "device": "tv"}, {"asked": "subject3"}
    assert answers(whole) == [200] and answers(lacking) == [422]
    assert answers(whole, lacking, {"device": "tv", "asked": "subject5"}, lacking) == [200, 422, 200, 422]


def test_two_variants_by_name_and_by_key(world_folder):
    with serving(world_folder, world_folder) as both:
        assert [called["variant"] for called in both.ask("GET", "/info").json["variants"]] == ["a", "b"]
        assert both.post("/search", query="subject3", variant="b")["variant"] == "b"
        assert both.post("/search", query="subject3")["variant"] == "a"
        first = {key: both.post("/search", query="subject3", key=key)["variant"] for key in map(str, range(40))}
        assert set(first.values()) == {"a", "b"} and 8 < list(first.values()).count("a") < 32
        assert first == {key: both.post("/search", query="subject9", key=key)["variant"] for key in first}
        assert both.ask("POST", "/search", {"query": "x", "variant": "c"}).status == 422


# --- refusals -----------------------------------------------------------------------------------------------------

BAD = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "a list": (b"[]", 422),
    "NaN": (b'{"query": "x", "threshold": NaN}', 400),
    "a number past all": (b'{"query": "x", "threshold": 1e999}', 422),
    "a name twice": (b'{"query": "x", "query": "y"}', 400),
    "half a pair": (b'{"query": "\\ud800"}', 400),
    "half a pair in a name": (b'{"query": {"\\udfff": "x"}}', 400),
    "no UTF-8": (b'{"query": "\xff"}', 400),
    "deep": (b'{"where": ' + b'{"not":' * 40 + b"1" + b"}" * 40 + b"}", 400),
    "digits": (b'{"query": "x", "k": ' + b"9" * 5000 + b"}", 422),
    "too many asked for": (b'{"query": "x", "k": 1000000000}', 422),
    "k as a float": (b'{"query": "x", "k": 1e39}', 422),
    "none asked for": (b'{"query": "x", "k": 0}', 422),
    "k as a text": (b'{"query": "x", "k": "3"}', 422),
    "k as true": (b'{"query": "x", "k": true}', 422),
    "an unknown option": (b'{"query": "x", "kk": 3}', 422),
    "no query": (b'{"k": 3}', 422),
    "two forms": (b'{"query": "x", "queries": ["y"]}', 422),
    "an empty query": (b'{"query": "   "}', 422),
    "no such column": (b'{"query": {"assked": "x"}}', 422),
    "a history to a model without": (b'{"query": "x", "history": [1]}', 422),
    "a long text": (b'{"query": "' + b"x" * 9000 + b'"}', 422),
    "a long text of wide characters": (json.dumps({"query": "é" * 5000}, ensure_ascii=False).encode(), 422),
    "too many queries": (json.dumps({"queries": ["x"] * 129}).encode(), 422),
    "a filter with an unknown column": (b'{"query": "x", "where": "colour = 3"}', 422),
    "a filter with a quote left open": (b'{"query": "x", "where": "title = \'a"}', 422),
    "a filter of another type": (b'{"query": "x", "where": {"price": {"lt": "cheap"}}}', 422),
    "a long filter": (json.dumps({"query": "x", "where": "price < 5 or " * 1000 + "price < 5"}).encode(), 422),
}


@pytest.mark.parametrize("case", BAD)
def test_a_body_that_cannot_be_meant(called, case):
    body, status = BAD[case]
    answer = called.ask("POST", "/search", body)
    told = answer.json
    assert answer.status == told["status"] == status and answer.headers["content-type"] == "application/problem+json"
    assert told["request_id"] == answer.headers["x-request-id"] and told["detail"] and "Traceback" not in str(told)
    assert called.ask("POST", "/search", {"query": "subject3"}).status == 200


def test_a_problem_says_where(called):
    told = called.ask("POST", "/search", {"query": "x", "k": -1, "deny": [{}]}).json
    assert [fault["at"] for fault in told["errors"]] == ["k", "deny[0]"]
    told = called.ask("POST", "/search", {"query": "x", "where": "price <"}).json
    assert "cannot be read at" in told["detail"] and "price" in told["errors"][0]["detail"]


def test_no_diversity_is_said_by_leaving_it_out(called):
    for path, body in (("/search", {"query": "subject3"}), ("/similar", {"item": 1000})):
        told = called.ask("POST", path, {**body, "diversity": 0})
        assert told.status == 422 and told.json["errors"] == [{"at": "diversity", "detail": "Input should be greater than 0"}]
    described = called.ask("GET", "/openapi.json").json["components"]["schemas"]["SearchBody"]["properties"]["diversity"]
    assert {"exclusiveMinimum": 0, "maximum": 1}.items() <= described["anyOf"][0].items()


def test_other_routes_refuse_as_well(called):
    for path, body, status in [
        ("/similar", {"item": 99999}, 404),
        ("/similar", {}, 422),
        ("/similar", {"item": 1, "items": [1]}, 422),
        ("/score", {"query": "x"}, 422),
        ("/score", {"query": "x", "items": [99999]}, 404),
        ("/score", {"query": "x", "items": [1000, {"title": "x"}]}, 422),
        ("/embed", {}, 422),
        ("/embed", {"item": {"nothing": 1}}, 422),
        ("/embed", {"query": "x", "queries": ["x"]}, 422),
    ]:
        assert called.ask("POST", path, body).status == status, (path, body)


def test_a_diverse_search_has_bounds_of_its_own(called):
    for path, body, status in [
        ("/search", {"query": "subject3", "k": 500}, 200),
        ("/search", {"query": "subject3", "k": 501}, 422),
        ("/search", {"query": "subject3", "k": 1, "skip": 500}, 422),
        ("/search", {"queries": ["subject3"] * 100, "k": 30, "skip": 20}, 200),
        ("/search", {"queries": ["subject3"] * 100, "k": 30, "skip": 21}, 422),
        ("/similar", {"items": [1000, 1003], "k": 500}, 200),
        ("/similar", {"item": 1000, "k": 400, "skip": 101}, 422),
    ]:
        answer = called.ask("POST", path, {**body, "diversity": 0.5})
        assert answer.status == status, (path, body)
        if status == 422:
            assert "at most 500" in answer.json["errors"][0]["detail"] and "5,000" in answer.json["errors"][0]["detail"]
        assert called.ask("POST", path, body).status == 200
    for name in ("SearchBody", "SimilarBody"):
        described = called.ask("GET", "/openapi.json").json["components"]["schemas"][name]["properties"]["diversity"]["description"]
        assert "at most 500" in described and "5,000" in described


def test_what_a_gate_refuses(called):
    assert called.ask("GET", "/nowhere").status == 404
    assert called.ask("GET", "/search/").status == called.ask("GET", "//search").status == called.ask("GET", "/SEARCH").status == 404
    answer = called.ask("GET", "/search")
    assert answer.status == 405 and answer.headers["allow"] == "POST"
    assert called.ask("DELETE", "/items/1000").status == 405
    assert called.ask("POST", "/search", b"{}", content_type="text/plain").status == 415
    assert called.ask("POST", "/search", b"{}", content_encoding="gzip").status == 415
    assert called.ask("POST", "/search?k=3", {"query": "x"}).status == 422
    assert called.ask("GET", "/items/1000?variant=default&x=1").status == 422
    assert called.ask("GET", "/info", host="evil.example").status == 421
    assert called.ask("POST", "/search", b" " * ((1 << 20) + 1)).status == 413
    answer = called.ask("HEAD", "/livez")
    assert answer.status == 200 and answer.body == b"" and answer.headers["content-length"] == "17"


def test_every_answer_has_what_a_browser_is_told(called):
    for answer in (called.ask("GET", "/livez"), called.ask("GET", "/nowhere"), called.ask("GET", "/")):
        assert answer.headers["x-content-type-options"] == "nosniff" and "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store" and "server" not in answer.headers


# --- keys, rates, the queue ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(world_folder):
    with serving(world_folder, keys=(KEY, OTHER)) as server:
        yield server


def test_a_key_is_needed_but_for_livez(locked):
    for path in ("/", "/info", "/metrics", "/readyz", "/items/1000", "/openapi.json", "/card", "/nowhere", "/page/page.js"):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Bearer {KEY}x"},
            {"authorization": KEY},
            {"authorization": "Basic x"},
        ):
            assert locked.ask("GET", path, **headers).status == 401, (path, headers)
    assert locked.ask("POST", "/search", {"query": "subject3"}).status == 401
    assert locked.ask("GET", "/livez").status == 200
    for key in (KEY, OTHER):
        assert locked.ask("POST", "/search", {"query": "subject3"}, authorization=f"Bearer {key}").status == 200
    basic = "Basic " + base64.b64encode(f"ann:{KEY}".encode()).decode()
    assert locked.ask("GET", "/info", authorization=basic).status == 200


def test_a_browser_is_asked_for_the_key(locked):
    assert locked.ask("GET", "/", accept="text/html").headers["www-authenticate"].startswith("Basic")
    assert locked.ask("GET", "/info").headers["www-authenticate"].startswith("Bearer")


def test_a_key_has_its_rate(world_folder):
    with serving(world_folder, keys=(KEY, OTHER), rate=3.0) as slow:
        statuses = [slow.ask("GET", "/info", authorization=f"Bearer {KEY}").status for _ in range(8)]
        assert statuses[:3] == [200] * 3 and 429 in statuses
        refused = slow.ask("GET", "/info", authorization=f"Bearer {KEY}")
        assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
        assert slow.ask("GET", "/info", authorization=f"Bearer {OTHER}").status == 200


def test_a_full_queue_is_said_at_once(world_folder, monkeypatch):
    worker = Held(monkeypatch)
    with serving(world_folder, most_waiting=2, most_at_once=1) as small:
        results: list = []
        threads = [threading.Thread(target=lambda: results.append(small.ask("POST", "/search", {"query": "subject3"}).status)) for _ in range(3)]
        threads[0].start()
        assert worker.begun.wait(20)
        for thread in threads[1:]:
            thread.start()
        while "twotower_waiting 2.0" not in small.ask("GET", "/metrics").body.decode():
            pass
        refused = small.ask("POST", "/search", {"query": "subject3"})
        assert refused.status == 503 and refused.headers["retry-after"] == "1"
        assert small.ask("GET", "/livez").status == 200
        worker.let_go()
        for thread in threads:
            thread.join()
        assert results == [200] * 3


def test_who_is_turned_away_is_told_so_in_order(world_folder, monkeypatch):
    worker = Held(monkeypatch)
    with serving(world_folder, most_waiting=1, most_at_once=1) as small:
        threads = [threading.Thread(target=small.ask, args=("POST", "/search", {"query": "subject3"})) for _ in range(2)]
        threads[0].start()
        assert worker.begun.wait(20)
        threads[1].start()
        while "twotower_waiting 1.0" not in small.ask("GET", "/metrics").body.decode():
            pass
        head = b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 14\r\n"
        post, get = head + b'\r\n{"query": "x"}', b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for parts, statuses in {
            (post,): [503],  # and it has hung up on its side
            (post, get): [503, 200],
            (post + get,): [503, 200],
            (post + post + get + post,): [503, 503, 200, 503],  # the last behind one that is being answered, so it comes to the queue
            (head + b"expect: 100-continue\r\n\r\n",): [503],  # it waits with its body until it is told to go on
        }.items():
            assert [int(status) for status in re.findall(rb"HTTP/1.1 ([0-9]{3})", small.raw(*parts))] == statuses, parts
        assert 'route="turned away",status="503"} 6.0' in small.ask("GET", "/metrics").body.decode()
        worker.let_go()
        for thread in threads:
            thread.join()


def test_what_nobody_waits_for_any_more_is_not_begun(world_folder, monkeypatch):
    worker = Held(monkeypatch)
    with serving(world_folder, seconds=0.5, most_at_once=1) as hurried:
        statuses: list = []
        threads = [threading.Thread(target=lambda: statuses.append(hurried.ask("POST", "/search", {"query": "subject3"}).status)) for _ in range(4)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)  # their times are up one after another
        for thread in threads:
            thread.join()
        assert statuses == [503] * 4
        worker.let_go()
        assert hurried.ask("POST", "/search", {"query": "subject3"}).status == 200
        assert worker.sizes == [1, 1]  # the first, and the last


def test_what_is_written_in_one_turn_leaves_as_one():
    sent: list[bytes] = []

    class Transport:
        closed = False

        def write(self, data):
            sent.append(data)

        def is_closing(self):
            return self.closed

        def close(self):
            self.closed = True

    async def run():
        joined = Joined(Transport(), asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"body")
        assert sent == []
        await asyncio.sleep(0)
        assert sent == [b"headbody"]
        joined.write_now(b"at once")
        assert sent[1:] == [b"at once"]
        joined.write(b"before it ")
        joined.write_now(b"behind")
        joined.close()
        assert sent[2:] == [b"before it behind"] and joined.is_closing()
        joined.write(b"too late")
        await asyncio.sleep(0)
        assert len(sent) == 3

    asyncio.run(run())


def test_options_that_cannot_be_meant(tmp_path, monkeypatch):
    for options, said in [
        ({"host": "0.0.0.0"}, "a key is needed"),
        ({"host": "search.example.com"}, "a key is needed"),
        ({"keys": ("short",)}, "at least 16"),
        ({"keys": ("with spaces in it, and long",)}, "without spaces"),
        ({"port": 70000}, "65535"),
        ({"rate": 0.0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"most_waiting": 0}, "1 or more"),
    ]:
        with pytest.raises(ConfigError, match=said):
            check_options(ServeOptions(**options))
    check_options(ServeOptions(host="0.0.0.0", keys=(KEY,)))
    file = tmp_path / "keys"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(file)
    file.write_text(f"# old\n{KEY}\n\n{OTHER}\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(file)
    file.chmod(0o660)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(file)
    for mode in (0o600, 0o640):  # a group may read it, as where a secret is mounted
        file.chmod(mode)
        assert read_keys(file) == (KEY, OTHER)
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds none"):
        read_keys(file)
    monkeypatch.setenv("TWOTOWER_KEYS", f"{KEY}, {OTHER}")
    assert read_keys(None) == (KEY, OTHER)


def test_keys_are_found_by_all_of_their_characters():
    keys = Keys((KEY, OTHER))
    assert (keys.find(KEY.encode()), keys.find(OTHER.encode())) == (0, 1)
    assert all(keys.find(wrong) is None for wrong in (b"", KEY[:-1].encode(), KEY.upper().encode(), b"\xff"))


# --- the wire -----------------------------------------------------------------------------------------------------


def test_json_is_read_as_it_is():
    assert read_json(b'{"a": [1, 2.5, null, true, "\\u00e9\\ud83d\\ude00"], "b": {"c": "[[[["}}') == {
        "a": [1, 2.5, None, True, "é😀"],
        "b": {"c": "[[[["},
    }
    assert read_json(b'["' + b"[" * 5000 + b'"]')[0] == "[" * 5000  # within a text, nothing is nested
    with pytest.raises(Problem, match="nested"):
        read_json(b"[" * 33 + b"]" * 33)
    assert read_json(b"[" * 32 + b"]" * 32)


def test_a_place_holds_no_name_that_came_with_the_body():
    with pytest.raises(Problem) as caught:
        read_body(SearchBody, b'{"query": {"secret": {}}, "mark": 1, "deny": [[], "x"]}')
    assert "secret" not in str(caught.value.faults) and "mark" not in str(caught.value.faults)
    assert read_body(ScoreBody, b'{"pairs": [{"query": "x", "item": 1}]}').pairs[0].item == 1
    assert read_body(EmbedBody, b'{"history": ["a"]}').history == ["a"]


# --- its end ------------------------------------------------------------------------------------------------------


def test_what_runs_is_answered_before_it_ends(world_folder, monkeypatch):
    worker, results = Held(monkeypatch), []
    with serving(world_folder) as ending:
        thread = threading.Thread(target=lambda: results.append(ending.ask("POST", "/search", {"query": "subject3"}).status))
        thread.start()
        assert worker.begun.wait(20)
        ending.server.should_exit = True
        worker.let_go()
        thread.join()
    assert results == [200]


def test_a_port_that_is_taken_is_said(called, world_folder):
    with pytest.raises(ConfigError, match="cannot be listened at"), serving(world_folder, port=called.port):
        pass

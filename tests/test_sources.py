"""Whatever people have becomes record batches, and what cannot be read is said in their words."""

import bz2
import gzip
import json
import lzma
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.sources import open_source
from twotower.data.values import to_text
from twotower.errors import DataError

ROWS = [{"q": f"question {n}, or é", "n": n} for n in range(300)]
CSV = "q,n\n" + "".join(f'"{row["q"]}",{row["n"]}\n' for row in ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def table(data, name="data"):
    return pa.Table.from_batches(list(open_source(data, name).batches()))


def canonical(data):
    rows = table(data)
    return {name: to_text(rows.column(name)).to_pylist() for name in rows.column_names}


EXPECTED = {"q": [row["q"] for row in ROWS], "n": [str(row["n"]) for row in ROWS]}


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


PLAIN = {"csv": CSV, "tsv": CSV.replace('",', '"\t').replace("q,n", "q\tn"), "jsonl": JSONL, "ndjson": JSONL}
PACKED = {"": lambda c: c, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": None}


@pytest.mark.parametrize("ending", list(PACKED))
@pytest.mark.parametrize("kind", list(PLAIN))
def test_text_formats_packed_or_not(tmp_path, kind, ending):
    path = tmp_path / f"a.{kind}{ending}"
    if ending == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(PLAIN[kind].encode())
    else:
        path.write_bytes(PACKED[ending](PLAIN[kind].encode()))
    assert canonical(path) == EXPECTED


def test_binary_formats_and_frames(tmp_path):
    rows = pa.Table.from_pylist(ROWS)
    pq.write_table(rows, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), rows.schema) as writer:
        writer.write_table(rows)
    columns = {name: rows.column(name).to_pylist() for name in rows.column_names}
    for data in (str(tmp_path / "a.parquet"), tmp_path / "a.arrow", rows, rows.to_batches()[0], pd.DataFrame(ROWS), ROWS, columns):
        assert canonical(data) == EXPECTED


def test_globs_folders_and_lists(tmp_path):
    for number in range(3):
        (tmp_path / f"p{number}.csv").write_text(f"q,n\nx,{number}\n")
    (tmp_path / "notes.md").write_text("no data")
    for data in (str(tmp_path), str(tmp_path / "p*.csv"), [tmp_path / f"p{n}.csv" for n in range(3)]):
        assert canonical(data)["n"] == ["0", "1", "2"]


def test_columns_may_stand_in_another_order_in_the_next_file(tmp_path):
    (tmp_path / "a.csv").write_text("q,n\nx,1\n")
    (tmp_path / "b.csv").write_text("n,q\n2,y\n")
    assert canonical(str(tmp_path)) == {"q": ["x", "y"], "n": ["1", "2"]}
    (tmp_path / "c.csv").write_text("n,other\n2,y\n")
    with pytest.raises(DataError, match=r'c\.csv has no column "q", and .*a\.csv has one'):
        open_source(tmp_path)


def test_files_whose_types_differ_get_one_type(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": 1, "c": null, "d": [1]}\n')
    (tmp_path / "b.jsonl").write_text('{"a": 2.5, "b": "007", "c": 3, "d": "x"}\n')
    assert table(tmp_path).to_pylist() == [{"a": 1.0, "b": "1", "c": None, "d": "[1]"}, {"a": 2.5, "b": "007", "c": "3", "d": "x"}]


def test_json_does_not_guess(tmp_path):
    lines = [{"a": 1, "b": True, "c": 2**53 + 1, "d": 1}, {"a": "7.0", "b": 1, "c": 1, "d": 0.5}, {"a": 2.5, "b": "x", "c": None, "d": None}]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert table(tmp_path / "a.jsonl").to_pydict() == {
        "a": ["1", "7.0", "2.5"],
        "b": ["true", "1", "x"],
        "c": [2**53 + 1, 1, None],
        "d": [1.0, 0.5, None],
    }


def test_a_column_that_changes_its_mind_late(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 70_000 + '{"a": "x", "b": 2}\n')
    rows = table(tmp_path / "a.jsonl")
    assert rows.schema.field("a").type == pa.string() and rows.slice(69_999).to_pylist() == [{"a": "1", "b": None}, {"a": "x", "b": 2}]


def test_what_csv_allows(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf"q ""x""",n\r\n"two\nlines, one ""value""",\r\n"",7\r\n')
    assert table(tmp_path / "a.csv").to_pydict() == {'q "x"': ['two\nlines, one "value"', None], "n": [None, "7"]}


def test_long_values_are_read_whole(tmp_path):
    long = "word " * 700_000
    (tmp_path / "a.csv").write_text(f"q,n\n{long}x,1\nb,2\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": long, "n": 1}) + "\n")
    assert [len(table(tmp_path / f"a.{kind}").column("q")[0].as_py()) for kind in ("csv", "jsonl")] == [3_500_001, 3_500_000]


def test_the_nameless_index_of_a_frame_is_no_column():
    frame = pd.DataFrame(ROWS)
    assert open_source(frame.iloc[[5, 3, 9]]).columns == ("q", "n")
    assert "user" in open_source(pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="user"))).columns


def test_head_reads_no_more_than_asked(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    assert open_source(tmp_path / "a.csv").head(7).num_rows == 7
    assert open_source(ROWS).head().num_rows == 300


# --- several files


def test_a_query_that_is_taken_for_a_path_is_refused():
    with pytest.raises(DataError, match=r"SELECT.*cannot be looked up.*sql = ") as raised:
        open_source("SELECT user_id, sku FROM clicks WHERE sku IN (" + ", ".join(map(str, range(200))) + ")")
    assert len(str(raised.value)) < 400


def test_a_file_beside_its_packed_copy_is_refused_and_a_list_of_them_is_not(tmp_path):
    for name, packed in (("a.csv", False), ("a.csv.gz", True), ("b.csv.gz", True)):
        (tmp_path / name).write_bytes(gzip.compress(b"q,n\nx,1\n") if packed else b"q,n\nx,1\n")
    for place in (tmp_path, tmp_path / "a.*"):
        with pytest.raises(DataError, match=r"names both .*a\.csv and a\.csv\.gz.*count twice"):
            open_source(place)
    assert open_source([tmp_path / "a.csv", tmp_path / "a.csv.gz"]).head().num_rows == 2
    (tmp_path / "a.csv").unlink()
    assert open_source(tmp_path).head().num_rows == 2


def test_a_mix_of_formats_in_one_folder_is_refused_and_a_list_of_them_is_not(tmp_path):
    (tmp_path / "a.csv").write_text("q,n\nx,1\n")
    (tmp_path / "a.jsonl").write_text('{"q": "x", "n": 1}\n')
    for place in (tmp_path, tmp_path / "*"):
        with pytest.raises(DataError, match=r"several formats.*count twice"):
            open_source(place)
    assert canonical([tmp_path / "a.csv", tmp_path / "a.jsonl"])["n"] == ["1", "1"]


DAYS = {"day=1/shop=a%2Fb": "a/b", "day=2/shop=__HIVE_DEFAULT_PARTITION__": None, "day=2/shop=c": "c"}


def partitioned(folder):
    for number, name in enumerate(DAYS):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({"q": [f"q{number}", "x"]}), folder / name / "part-0.parquet")
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")


def test_folders_named_by_key_and_value_are_columns(tmp_path):
    partitioned(tmp_path)
    expected = {"q": ["q0", "x", "q1", "x", "q2", "x"], "day": list("112222"), "shop": ["a/b", "a/b", None, None, "c", "c"]}
    for place in (tmp_path, f"{tmp_path}/*/*/*.parquet", f"{tmp_path}/**/*.parquet"):
        assert table(place).to_pydict() == expected
    assert table(tmp_path / "day=2").column_names == ["q", "shop"]
    (tmp_path / "_stray.parquet").write_bytes(b"left by another tool")
    assert table(tmp_path).to_pydict() == expected
    before = digest(tmp_path)
    (tmp_path / "day=1").rename(tmp_path / "day=0")  # the order of the files stays
    assert digest(tmp_path) != before


def test_keys_are_read_without_the_columns_of_the_files(tmp_path):
    partitioned(tmp_path)
    assert open_source(tmp_path).select(["day"]).head().to_pydict() == {"day": list("112222")}


def test_a_column_of_the_file_comes_before_a_key_of_its_folder(tmp_path):
    (tmp_path / "q=1").mkdir()
    (tmp_path / "q=1" / "a.csv").write_text("q\nown\n")
    assert table(tmp_path).to_pydict() == {"q": ["own"]}


def test_files_deeper_in_a_folder_are_pointed_at(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.csv").write_text("q\nx\n")
    with pytest.raises(DataError, match=r"glob, .*/\*\*/\*\.csv"):
        open_source(tmp_path)
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1" / "a.csv").write_text("q\nx\n")
    with pytest.raises(DataError, match="in none of them"):
        open_source(tmp_path)


# --- some of the columns


def written(folder, kind):
    rows = pa.table({"q": ["x", None], "n": [1, 2], "v": [[1.0, 2.0], [3.0]], "a.b": ["dot", "ted"]})
    plain = rows.drop_columns(["v"])
    if kind == "parquet":
        pq.write_table(rows, folder / "a.parquet")
    elif kind == "arrow":
        with pa.ipc.new_file(str(folder / "a.arrow"), rows.schema) as writer:
            writer.write_table(rows)
    elif kind == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    elif kind == "csv":
        plain.to_pandas().to_csv(folder / "a.csv", index=False)
    else:
        return rows
    return folder / f"a.{kind}"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "arrow", "table"])
def test_selecting_columns_reads_the_same_values(tmp_path, kind):
    source = open_source(written(tmp_path, kind))
    whole = source.head()
    for names in ([name] for name in source.columns):
        assert source.select(names).head() == whole.select(names)
    names = list(reversed(source.columns))
    chosen = source.select([*names, names[0]])
    assert chosen.columns == tuple(names) and chosen.head() == whole.select(names)
    assert chosen.digest() == source.digest()
    assert chosen.select(names[:1]).columns == (names[0],)
    with pytest.raises(DataError, match='no column "p"'):
        source.select(["p"])
    with pytest.raises(DataError, match=f'no column "{names[1]}"'):
        source.select(names[:1]).require(names[1], "a role")
    with pytest.raises(DataError, match="no column is selected"):
        source.select([])


def test_a_column_that_is_not_selected_is_not_read(tmp_path):
    broken = pa.array([b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"q": ["x"], "n": broken}), tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").select(["q"]).head().to_pydict() == {"q": ["x"]}
    with pytest.raises(DataError, match=r'a\.parquet: the column "n" holds text that is not UTF-8'):
        table(tmp_path / "a.parquet")


# --- lists and objects


def test_json_lists_of_one_kind_are_typed_and_others_are_texts(tmp_path):
    lines = [
        {"ints": [1, 2], "mixed": [1], "words": ["a", None], "odd": [1, "x"], "big": [2**53 + 1], "empty": [], "truths": [True]},
        {"ints": None, "mixed": [0.5], "words": [], "odd": [2], "big": [1], "empty": [], "truths": [False]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert table(tmp_path / "a.jsonl").to_pylist() == [
        {"ints": [1, 2], "mixed": [1.0], "words": ["a", None], "odd": '[1, "x"]', "big": "[9007199254740993]", "empty": "[]", "truths": "[true]"},
        {"ints": None, "mixed": [0.5], "words": [], "odd": "[2]", "big": "[1]", "empty": "[]", "truths": "[false]"},
    ]


def test_lists_are_for_those_who_read_them(tmp_path):
    nested = {"list": [[1.0]], "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "object": [{"a": [1], "b": "x"}]}
    rows = pa.table(nested | {"bytes": [b"x"], "of_bytes": [[b"x"]]})
    pq.write_table(rows, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"list": [1], "odd": [1, "x"], "object": {"a": 1}}\n')
    for data in (rows, tmp_path / "a.parquet", tmp_path / "a.jsonl"):
        source = open_source(data)
        for column in source.columns:
            with pytest.raises(DataError, match="plain values are needed"):
                source.require(column, "a role")
            if "bytes" in column:
                with pytest.raises(DataError, match="plain values are needed"):
                    source.require(column, "a role", nested=True)
            else:
                assert source.require(column, "a role", nested=True) == column
    assert table(tmp_path / "a.parquet").to_pylist() == rows.to_pylist()


LISTS = st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats(allow_nan=False, width=32)), max_size=3)), min_size=1, max_size=4)


@settings(max_examples=60)
@given(LISTS, LISTS)
def test_other_lists_have_another_digest(one, two):
    kind = pa.list_(pa.float64())
    digests = [digest(pa.table({"v": pa.array(rows, kind)})) for rows in (one, two)]
    assert (digests[0] == digests[1]) == (repr(one) == repr(two))
    padded = pa.array([[9.0], *one, None], kind).slice(1, len(one))
    assert digest(pa.table({"v": padded})) == digests[0]


def test_what_a_type_stands_for_is_read(tmp_path):
    number = uuid.UUID(int=7)
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([number.bytes, None], pa.binary(16)))
    words = pa.array([["a", "b"], None], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    rows = pa.table({"id": ids, "words": words, "view": pa.array(["x", None], pa.string_view())})
    pq.write_table(rows, tmp_path / "a.parquet")
    expected = {"id": [str(number), None], "words": [["a", "b"], None], "view": ["x", None]}
    assert table(rows).to_pydict() == table(tmp_path / "a.parquet").to_pydict() == expected


# --- odd texts


def test_odd_texts_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "\\ud800x", "v": ["\\udfff", null], "n": "a\\u0000b"}\n')
    assert table(tmp_path / "a.jsonl").to_pylist() == [{"q": "?x", "v": ["?", None], "n": "a\0b"}]
    (tmp_path / "a.csv").write_bytes(b"q,n\na\0b," + b"x" * 1_000_000 + b"\n7,\nseven,7\n")
    assert table(tmp_path / "a.csv").to_pydict() == {"q": ["a\0b", "7", "seven"], "n": ["x" * 1_000_000, None, "7"]}


# --- digests


def digest(data):
    return open_source(data).digest()


def test_a_digest_knows_content_and_not_layout():
    rows = pa.Table.from_pylist([*ROWS, {"q": None, "n": None}])
    pieces = pa.concat_tables([rows.slice(0, 7), rows.slice(7, 200), rows.slice(207)])
    padded = pa.concat_tables([rows.slice(0, 5), rows, rows.slice(0, 3)]).combine_chunks().slice(5, 301)
    assert digest(rows) == digest(pieces) == digest(padded) == digest(rows.combine_chunks())
    assert digest(rows) == digest(rows.replace_schema_metadata({"made": "elsewhere"}))
    encoded = rows.set_column(0, "q", rows.column("q").dictionary_encode())
    assert digest(rows) == digest(encoded)


def test_what_lies_under_a_null_is_no_content():
    validity = pa.py_buffer(bytes([0b101]))
    one, two = (pa.Array.from_buffers(pa.int64(), 3, [validity, pa.py_buffer(np.array([1, hidden, 3]))]) for hidden in (2, 99))
    assert digest(pa.table({"a": one})) == digest(pa.table({"a": two}))


VALUES = st.one_of(st.none(), st.text("ab\0", max_size=3))


@settings(max_examples=60)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4))
def test_other_content_has_another_digest(one, two):
    tables = [pa.table({"a": pa.array([r[0] for r in rows], pa.string()), "b": pa.array([r[1] for r in rows], pa.string())}) for rows in (one, two)]
    assert (digest(tables[0]) == digest(tables[1])) == (one == two)


def test_types_names_and_where_the_nulls_stand_are_content():
    assert len({digest({"a": values}) for values in (["x", None], [None, "x"], ["x", ""], ["x"], ["x", None, None])}) == 5
    assert (
        len({digest({"a": [1, 0]}), digest({"b": [1, 0]}), digest({"a": ["1", "0"]}), digest({"a": [True, False]}), digest({"a": [1.0, 0.0]})}) == 5
    )
    assert digest({"a": [[1], [2, 3]]}) != digest({"a": [[1, 2], [3]]})


def test_a_file_is_known_by_its_bytes_and_its_format(tmp_path):
    for name, content in {"a.csv": "q\nx\n", "b.csv": "q\nx\n", "c.csv": "q\ny\n", "a.tsv": "q\nx\n"}.items():
        (tmp_path / name).write_text(content)
    a, b, c, t = (digest(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv", "a.tsv"))
    assert a == b and len({a, c, t}) == 3


# --- what cannot be read: one clear DataError


def packed(content, cut=30):
    return gzip.compress(content.encode() * 20)[:-cut]


BAD = {
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n", "no header"),
    "header.csv": (b"q,n\n", "a header and no rows"),
    "twice.csv": (b"q,n,q\n1,2,3\n", "'q' twice"),
    "latin.csv": (CSV.encode() + "caf\u00e9,1\n".encode("latin1"), "line 302 is not UTF-8: byte 0xe9"),
    "latin.csv.gz": (gzip.compress(CSV.encode() + "caf\u00e9,1\n".encode("latin1")), "line 302 is not UTF-8"),
    "latin.jsonl": (JSONL.encode() + '{"q": "caf\u00e9"}\n'.encode("latin1"), "line 301 is not UTF-8"),
    "head.csv": ("caf\u00e9\nx\n".encode("latin1"), "line 1 is not UTF-8"),
    "wide.csv": ("q\nx\n".encode("utf-16"), "iconv -f utf-16"),
    "uneven.csv": (CSV.encode() + b"a,1,2\n", "row 301 .line 302. has 3 columns and the header has 2"),
    "short.csv": (CSV.encode() + b"a\n", "has 1 columns"),
    "open.csv": (CSV.encode() + b'"never closed,1\n', "columns|quote"),
    "list.jsonl": (b"[1]\n", "not a JSON object"),
    "words.jsonl": (JSONL.encode() + b"nope\n", "line 301 is not JSON"),
    "deep.jsonl": (b'{"a":' * 100_000 + b"\n", "line 1 is not JSON"),
    "array.jsonl": (b'[{"q": 1}, {"q": 2}]\n', r"one JSON array.*jq -c '\.\[\]' array\.jsonl"),
    "pretty.jsonl": (b'{\n  "q": 1\n}\n', "spread over lines.*jq -c"),
    "wide.jsonl": ('{"q": "x"}\n'.encode("utf-16"), "iconv -f utf-16 "),
    "little.jsonl": ('{"q": "x, and more"}\n'.encode("utf-16-le"), "iconv -f utf-16le"),
    "little.csv": ("query,item\nx,y\n".encode("utf-16-le"), "iconv -f utf-16le"),
    "many.csv": (b"q,n\n" + b"1,2\n" * 3 + b"1\n1,2\n1,2,3\n1\n", r"row 4 .line 5. has 1 columns.*rows 6, 7;"),
    "nothing.jsonl": (b"{}\n{}\n", "no rows"),
    "blank.jsonl": (b"\n\n", "no rows"),
    "cut.csv.gz": (packed(CSV), "damaged, truncated"),
    "cut.jsonl.gz": (packed(JSONL), "damaged, truncated"),
    "cut.csv.xz": (lzma.compress(CSV.encode())[:-9], "damaged, truncated"),
    "cut.csv.bz2": (bz2.compress(CSV.encode())[:-9], "damaged, truncated"),
    "plain.csv.gz": (CSV.encode(), "damaged, truncated"),
    "plain.csv.zst": (CSV.encode(), "damaged, truncated"),
    "garbled.csv.gz": (gzip.compress(CSV.encode())[:60] + b"\0\xff\x13" * 5 + gzip.compress(CSV.encode())[75:], "damaged, truncated"),
    "words.parquet": (CSV.encode(), "damaged, truncated"),
    "words.arrow": (CSV.encode(), "damaged, truncated"),
    "cut.csv.zst": (zstd(CSV.encode() * 20)[:-30], "damaged, truncated"),
    "cut.jsonl.zst": (zstd(JSONL.encode() * 20)[:-30], "damaged, truncated"),
    "book.xlsx": (b"PK", "spreadsheet. Save the sheet as CSV"),
    "pairs.json": (b"[]", r"jq -c '\.\[\]' pairs\.json"),
    "shop.sqlite": (b"SQLite format 3", 'database = "shop.sqlite"'),
    "all.zip": (b"PK", "Unpack it"),
    "frame.pkl": (b"\x80", "pickle"),
    "pairs.txt": (b"a,b", "Rename it"),
    "pairs.foo": (b"a,b", "cannot tell its format"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_file_is_one_clear_error(tmp_path, name):
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        table(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("cut", [4, 30, 200, 1000])
def test_a_truncated_parquet_file_is_one_clear_error(tmp_path, cut):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        table(tmp_path / "a.parquet")


def test_a_row_of_too_many_megabytes_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("q,n\n" + "b,2\n" * 3_000_000 + '"' + "x,y\n" * 6_000_000)
    with pytest.raises(DataError, match=r"quote that is never closed|columns"):
        table(tmp_path / "a.csv")


def test_what_is_not_there_names_the_nearest(tmp_path):
    (tmp_path / "clicks.csv").write_text(CSV)
    with pytest.raises(DataError, match=r'did you mean "clicks\.csv"'):
        open_source(tmp_path / "click.csv")
    with pytest.raises(DataError, match=r'no column "p" .a role.; the choices are: n, q'):
        open_source(tmp_path / "clicks.csv").require("p", "a role")
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="holds no data file"):
        open_source(tmp_path / "sub")
    with pytest.raises(DataError, match="there is no file"):
        open_source(tmp_path / "nowhere" / "*.csv")


@pytest.mark.parametrize(
    "data",
    [5, [1, 2], [], {}, {"q": [1], "n": [1, 2]}, {"q": "x"}, pd.DataFrame(), pd.DataFrame({"q": []}), pd.DataFrame([[1, 2]], columns=["q", "q"])],
    ids=str,
)
def test_what_is_no_table_is_one_clear_error(data):
    with pytest.raises(DataError):
        open_source(data)


@pytest.mark.parametrize("values", [[["a"]], [{"a": 1}], [b"a"]], ids=str)
def test_nested_and_binary_columns_are_for_showing_only(values):
    source = open_source({"q": values})
    with pytest.raises(DataError, match=r'"q" .a role. holds'):
        source.require("q", "a role")
    source.require("q", "item.payload", shown=True)

"""Whatever people have becomes record batches, and what cannot be read is said in their words."""

import bz2
import gzip
import json
import lzma

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
    with pytest.raises(DataError, match="must agree"):
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


@settings(max_examples=60, deadline=None)
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
    "deep.jsonl": (b"[" * 100_000 + b"\n", "line 1 is not JSON"),
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
    "book.xlsx": (b"PK", "cannot tell its format"),
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

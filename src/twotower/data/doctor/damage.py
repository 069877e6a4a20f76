"""Columns that are not what they are declared to be, and texts that were damaged on their way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.doctor.evidence import Evidence, short
from twotower.data.doctor.findings import MOST_EXAMPLES, Finding, Severity, number, percent
from twotower.data.features import FEATURES
from twotower.data.prepared import ID
from twotower.data.schema import SIDES, Side
from twotower.data.sources import Source
from twotower.data.values import EXACT_FLOAT, to_text

MOST_ROWS = 2_000_000  # rows of a source whose texts are read for damage
ONE_SIDED, NEARLY_EMPTY, HALF_EMPTY = 0.99, 0.9, 0.5
PLACEHOLDERS = ("n/a", "na", "null", "none", "nan", "unknown", "undefined", "missing", "-", "--", "?", "#n/a", "tbd")


NO_IDS = ("nan", "null", "none", "nat", "<na>", "n/a", "#n/a")  # what programs write for a missing value


class Damage(NamedTuple):
    """A kind of damage: what matches it, how to say it, what to do."""

    pattern: str
    wide: bool  # whether only texts beyond ASCII can have it
    title: str
    advice: str


DAMAGE = {
    # What the bytes of UTF-8 look like when they are read as Latin-1 or Windows-1252.
    "mojibake": Damage(
        "Ã[\u0080-\u00bfŒœŠšŸŽžƒ‘’“”–—™]|â€|Â[\u00a0-\u00bf]|Ð[\u0090-\u00bf]Ð|[ÐÑ][\u0080-\u009f]",
        True,
        "hold letters that were read in the wrong encoding, such as Ã© for é",
        'Read the file they come from as UTF-8 and export it again; in Python: text.encode("cp1252").decode("utf-8").',
    ),
    "replacement_characters": Damage(
        "\ufffd",
        True,
        "hold the character \ufffd, which stands for letters that are lost",
        "Export the data again from where they are whole: what was lost cannot be found here.",
    ),
    "html_entities": Damage(
        "&(?:amp|lt|gt|quot|apos|nbsp|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});",
        False,
        "hold HTML entities such as &amp;",
        "Unescape them before training, and what people ask too: in Python html.unescape(text).",
    ),
    "control_characters": Damage(
        "[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\u0080-\u0084\u0086-\u009f]",
        False,
        "hold control characters, which no one can see",
        "Replace them by spaces: they cut words apart, or join them.",
    ),
}


def damaged_texts(evidence: Evidence) -> list[Finding]:
    """Texts that were damaged on their way, by kind of damage."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    shown: dict[str, list[dict[str, Any]]] = defaultdict(list)
    rows: dict[str, int] = {}
    for source, columns in _worded(evidence):
        for start, batch in _first(source):
            rows[Path(source.name).name] = start + batch.num_rows
            for name in columns:
                for kind, at, texts in _damage(batch.column(name)):
                    counts[kind][f"{Path(source.name).name}: {name}"] += len(at)
                    for row in at[: MOST_EXAMPLES - len(shown[kind])]:
                        shown[kind].append({"row": start + int(row) + 1, "column": name, "text": _around(texts[int(row)].as_py(), kind)})
    found = []
    for kind, by_column in counts.items():
        share = max(count / rows[place.rpartition(": ")[0]] for place, count in by_column.items())
        total = sum(by_column.values())
        named = ", ".join(f'"{place.rpartition(": ")[2]}"' for place in by_column)
        title = f"{number(total, 'text')} in {named} {DAMAGE[kind].title}."
        severity: Severity = "warning" if share >= 0.01 else "note"
        found.append(Finding(kind, severity, title, DAMAGE[kind].advice, dict(by_column), share, tuple(shown[kind])))
    return found


def _worded(evidence: Evidence) -> list[tuple[Source, list[str]]]:
    """The columns of texts and names that features read, with the source of each."""
    sides = {side: {f.column for f in evidence.schema.features(side) if f.worded or f.type in ("category", "id", "categories")} for side in SIDES}
    log, listed = evidence.pairs, evidence.items
    own = sides["query"] | (sides["item"] if listed is None else set())
    found = [(log, [name for name in log.columns if name in own and name not in log.unfit])]
    if listed is not None:
        found.append((listed, [name for name in listed.columns if name in sides["item"] and name not in listed.unfit]))
    return found


def _first(source: Source) -> Iterable[tuple[int, pa.RecordBatch]]:
    start = 0
    for batch in source.batches():
        yield start, batch
        start += batch.num_rows
        if start >= MOST_ROWS:
            return


def _damage(column: pa.Array) -> Iterable[tuple[str, Array, pa.Array]]:
    """For each kind of damage that is there: its name, the rows that have it, the texts."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return
    wide = pc.invert(pc.fill_null(pc.string_is_ascii(column), True))
    any_wide = pc.any(wide, min_count=0).as_py()
    for kind, damage in DAMAGE.items():
        if damage.wide and not any_wide:
            continue
        at = np.flatnonzero(pc.fill_null(pc.match_substring_regex(column, damage.pattern), False).to_numpy(zero_copy_only=False))
        if len(at):
            yield kind, at, column


def _around(text: str, kind: str) -> str:
    """The damaged place of a text and what is near it; what cannot be seen as its code."""
    at = pc.find_substring_regex(pa.array([text]), DAMAGE[kind].pattern)[0].as_py()
    at = len(text.encode()[:at].decode(errors="ignore"))
    part = text[max(0, at - 30) : at + 40]
    return short("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in part))


def silent_columns(evidence: Evidence) -> list[Finding]:
    """Columns that hold nothing, or nearly nothing, or always the same."""
    found = []
    for side in SIDES:
        states = {name: _state(evidence, side, name) for name in evidence.columns(side)}
        unread = any(f.column not in states for f in evidence.schema.features(side))
        useless = bool(states) and not unread and all(code in ("empty_column", "constant_column") for code, _, _ in states.values())
        for name, (code, share, value) in states.items():
            if code:
                found.append(_silent(evidence, side, name, code, share, value, useless))
    return found


def _state(evidence: Evidence, side: Side, column: str) -> tuple[str, float, Any]:
    """(the code of what is wrong with a column or "", the share, the value that it is about)."""
    log = evidence.prepared.log
    values = evidence.values(side, column).dictionary_encode()
    codes = np.asarray(pc.fill_null(values.indices, -1).to_numpy(zero_copy_only=False)).astype(np.int64)
    codes = codes[np.asarray(log.query_rows)] if side == "query" else codes
    counts = np.bincount(codes + 1, minlength=len(values.dictionary) + 1)
    missing, total = int(counts[0]), max(1, int(counts.sum()))
    present = total - missing
    if not present:
        return "empty_column", 1.0, None
    top = int(counts[1:].argmax())
    if missing == 0 and counts[1 + top] == present:
        return "constant_column", 1.0, values.dictionary[top].as_py()
    if missing / total >= HALF_EMPTY:
        return ("nearly_empty_column" if missing / total >= NEARLY_EMPTY else "half_empty_column"), missing / total, None
    if counts[1 + top] / present >= ONE_SIDED and present >= 100:
        return "one_sided_column", int(counts[1 + top]) / present, values.dictionary[top].as_py()
    return "", 0.0, None


def _silent(evidence: Evidence, side: Side, name: str, code: str, share: float, value: Any, useless: bool) -> Finding:
    what = {
        "empty_column": "holds nothing: every value is missing",
        "constant_column": f'holds "{short(value, 40)}" in every row',
        "nearly_empty_column": f"is missing in {percent(share)} of the rows",
        "half_empty_column": f"is missing in {percent(share)} of the rows",
        "one_sided_column": f'holds "{short(value, 40)}" in {percent(share)} of the rows that have it',
    }[code]
    severity: Severity = "stop" if useless else "note" if code == "half_empty_column" else "warning"
    options = "a query" if side == "query" else "an item"
    advice = (
        f"There is nothing to tell {options} from another by: name a column that differs in [{side}] features."
        if useless
        else f'Leave "{name}" out of [{side}] features, or see why it is so.'
    )
    return Finding(code, severity, f'The column "{name}" of the {side} side {what}.', advice, {}, share, ({"column": name, "side": side},))


def mistyped_columns(evidence: Evidence) -> list[Finding]:
    """Numbers that are read as texts or as categories."""
    found = []
    for side in SIDES:
        for name, features in evidence.columns(side).items():
            kinds = {"text" if f.worded else f.type for f in features} & {"text", "category"}
            if not kinds:
                continue
            values = pc.unique(evidence.values(side, name).drop_null().slice(0, 200_000))
            if len(values) < 20 or (kinds == {"category"} and len(values) <= 100):
                continue
            numbers = pc.match_substring_regex(values, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
            share = float(pc.mean(numbers.cast(pa.float64())).as_py())
            if share < 0.95:
                continue
            kind = "text" if "text" in kinds else "category"
            examples = tuple({"column": name, "value": text} for text in values.filter(numbers).slice(0, MOST_EXAMPLES).to_pylist())
            other = 'type = "number" if its size means something, ' if "number" in FEATURES else ""
            title = f'The column "{name}" of the {side} side is read as {kind}, and {percent(share)} of its values are numbers.'
            advice = f'Declare it in [{side}] features with {other}type = "id" if it names something, or leave it out.'
            found.append(Finding("numbers_as_text", "warning", title, advice, {"different values": len(values)}, share, examples))
    return found


def placeholders(evidence: Evidence) -> list[Finding]:
    """Values that say that there is no value."""
    found = []
    log = evidence.prepared.log
    for side in SIDES:
        for name, features in evidence.columns(side).items():
            if not any(f.worded or f.type in ("id", "category") for f in features):
                continue
            values = evidence.values(side, name)
            words = [word for word in PLACEHOLDERS if word not in NO_IDS or not all(f.type == "id" for f in features)]  # those are told of ids
            named = pc.fill_null(pc.is_in(pc.utf8_lower(values), pa.array(words)), False)
            rows = np.flatnonzero(named.to_numpy(zero_copy_only=False))
            if not len(rows):
                continue
            used = np.asarray(log.query_rows if side == "query" else log.item_rows)
            share = float(np.isin(used, rows).mean()) if side == "query" else len(rows) / max(1, evidence.prepared.n_items)
            if share < 0.001:
                continue
            spelled = pc.value_counts(values.take(pa.array(rows))).to_pylist()
            examples = tuple({"column": name, "value": entry["values"], "rows of it": entry["counts"]} for entry in spelled[:MOST_EXAMPLES])
            title = f'The column "{name}" of the {side} side says that there is no value, in words, in {percent(share)} of the rows.'
            advice = "Leave such cells empty: a missing value is known as one, while these words are learnt as if they were a thing."
            found.append(Finding("placeholders", "warning" if share >= 0.01 else "note", title, advice, {"rows": len(rows)}, share, examples))
    return found


def ids_of_nothing(evidence: Evidence) -> list[Finding]:
    """Ids that are a program's word for a missing value: all rows without an id then pass for one thing."""
    counts: dict[str, int] = defaultdict(int)
    examples: list[dict[str, Any]] = []
    for source, names in _id_columns(evidence):
        for start, batch in _first(source.select(names)):
            for name in names:
                texts = to_text(batch.column(name))
                at = np.flatnonzero(pc.fill_null(pc.is_in(pc.utf8_lower(texts), pa.array(NO_IDS)), False).to_numpy(zero_copy_only=False))
                counts[f"{Path(source.name).name}: {name}"] += len(at)
                for row in at[: MOST_EXAMPLES - len(examples)]:
                    examples.append({"file": Path(source.name).name, "row": start + int(row) + 1, "column": name, "value": texts[int(row)].as_py()})
    counts = {place: count for place, count in counts.items() if count}
    if not counts:
        return []
    total = sum(counts.values())
    named = ", ".join(f'"{name}"' for name in dict.fromkeys(place.rpartition(": ")[2] for place in counts))
    title = f"{number(total, 'row')} {'has' if total == 1 else 'have'} a word for a missing value as an id in {named}, and all pass for one."
    advice = 'Leave such cells empty: a row without an id is left out. In pandas astype(str) writes them; astype("string") keeps them missing.'
    return [Finding("ids_of_nothing", "warning", title, advice, counts, None, tuple(examples))]


def spoilt_ids(evidence: Evidence) -> list[Finding]:
    """Ids that were numbers for a while: written as 7.0, or too large for a float."""
    floats, large = 0, 0
    examples: list[dict[str, Any]] = []
    columns: set[str] = set()
    for source, names in _id_columns(evidence):
        for start, batch in _first(source.select(names)):
            for name in names:
                at, big = _float_ids(batch.column(name))
                floats, large = floats + len(at), large + big
                columns |= {name} if len(at) else set()
                for row in at[: MOST_EXAMPLES - len(examples)]:
                    examples.append({"row": start + int(row) + 1, "column": name, "value": str(batch.column(name)[int(row)].as_py())})
    if not floats:
        return []
    named = ", ".join(f'"{name}"' for name in sorted(columns))
    if large:
        title = f"{number(large, 'id')} in {named} went through floating point, which tells no whole numbers apart at their size."
        advice = "Export the ids as whole numbers or as text: different things may share one id now."
        return [Finding("ids_too_large", "warning", title, advice, {"ids": large}, None, tuple(examples))]
    title = f"{number(floats, 'id')} in {named} {'is' if floats == 1 else 'are'} written as a fraction, such as 7.0; 7.0 and 7 are taken for one."
    return [
        Finding(
            "ids_as_floats", "note", title, "Write ids as whole numbers or as text, as they are elsewhere.", {"ids": floats}, None, tuple(examples)
        )
    ]


def _id_columns(evidence: Evidence) -> list[tuple[Source, list[str]]]:
    schema = evidence.schema
    ids = {side: {f.column for f in schema.features(side) if f.type == "id"} for side in SIDES}
    log = {*ids["query"], schema.query.key, schema.query_column, schema.history_by, schema.pairs.item or schema.item.id}
    found = [(evidence.pairs, [name for name in evidence.pairs.columns if name in log and name not in evidence.pairs.unfit])]
    if evidence.items is not None:
        listed = {*ids["item"], schema.item.id}
        found.append((evidence.items, [name for name in evidence.items.columns if name in listed and name not in evidence.items.unfit]))
    return [(source, names) for source, names in found if names]


def _float_ids(column: pa.Array) -> tuple[Array, int]:
    """(rows whose id is a whole number written as a fraction, how many are past what a float tells apart)."""
    if pa.types.is_floating(column.type):
        values = np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))
        at = np.flatnonzero(np.isfinite(values) & (values == np.trunc(values)))
        return at, int((np.abs(values[at]) >= EXACT_FLOAT).sum())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.empty(0, np.int64), 0
    at = np.flatnonzero(pc.fill_null(pc.match_substring_regex(column, r"^-?\d+\.0+$|^\d\.\d+[eE]\+\d+$"), False).to_numpy(zero_copy_only=False))
    big = pc.sum(pc.greater(pc.abs(column.take(pa.array(at)).cast(pa.float64())), EXACT_FLOAT).cast(pa.int64())).as_py() if len(at) else 0
    return at, int(big or 0)


def ids_nearly_equal(evidence: Evidence) -> list[Finding]:
    """Ids of items that differ in nothing but zeros in front or in the case of letters."""
    if evidence.schema.item.id is None:
        return []
    ids = to_text(evidence.values("item", ID)).drop_null()
    plain = pc.if_else(pc.match_substring_regex(ids, r"^0+\d+$"), pc.utf8_ltrim(ids, "0"), pc.utf8_lower(ids))
    codes = np.asarray(plain.dictionary_encode().indices.to_numpy(zero_copy_only=False))
    several = np.flatnonzero(np.bincount(codes)[codes] > 1) if len(codes) else codes
    if not len(several):
        return []
    groups = np.unique(codes[several])
    examples = tuple({"ids": ids.take(pa.array(np.flatnonzero(codes == group)[:4])).to_pylist()} for group in groups[:MOST_EXAMPLES])
    title = f"{number(len(several), 'id')} of items {'differs' if len(several) == 1 else 'differ'} from another only in case or in zeros in front."
    advice = "If they name the same things, write them in one way in the log and in the catalogue."
    return [Finding("ids_nearly_equal", "note", title, advice, {"ids": len(several)}, len(several) / len(ids), examples)]

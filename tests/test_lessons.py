"""What is learnt from a teacher: numbers by hand, gradients against autograd on one matrix, and the roads by which it comes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import twotower as tt
from conftest import WORLD_CONFIG
from test_blockwise import batch_of, plain, vectors_of
from twotower import config as configs
from twotower.config import from_values
from twotower.data.batches import Scored, Taught, complete, draft
from twotower.data.columns import ragged
from twotower.data.encoder import to_table
from twotower.data.features import Id, Text
from twotower.data.preparation import prepare
from twotower.data.prepared import Log
from twotower.data.schema import ItemSide, PairColumns, QuerySide, Schema
from twotower.data.scores import pair_scores
from twotower.data.sources import open_source
from twotower.data.splits import SplitOptions
from twotower.errors import BundleError, ConfigError, DataError
from twotower.files import read_json, write_json
from twotower.learning import training
from twotower.model import blockwise
from twotower.model.blockwise import loss_of
from twotower.model.lessons import lesson
from twotower.model.losses import LOSSES
from twotower.model.options import LossOptions
from twotower.model.relations import relation
from twotower.model.towers import build

CPU = torch.device("cpu")
PURE = LossOptions(teacher_weight=1.0, correction=False)


def taught_batch(seed=0, **given):
    batch = batch_of(seed, **given)
    generator = np.random.default_rng(seed + 5)
    made = [generator.normal(size=(n, 4)).astype(np.float32) for n in (len(batch.query_rows), len(batch.item_rows))]
    return batch._replace(taught=Taught(*made))


def scored_batch(seed=0, **given):
    """Every view's matches and explicit non-matches with a score, but for one in four."""
    batch = batch_of(seed, **given)
    generator = np.random.default_rng(seed + 5)
    rows = []
    for view in range(len(batch.query_rows)):
        own = {int(p) for column in (batch.positives[:2], batch.negatives) for p in between(column, view)}
        rows.append(sorted(p for p in own if generator.random() > 0.25))
    cells = ragged(rows)
    return batch._replace(scored=Scored(cells, generator.normal(size=len(cells.values)).astype(np.float32)))


def between(column, view):
    values, offsets = column
    return values[offsets[view] : offsets[view + 1]]


def part_of(batch, view):
    """The candidates of a view that take part: its positives, and what is not masked and there for it."""
    mask = batch.mask_rows[view]
    masked = set(between(batch.masks, mask).tolist())
    own, positives = set(between(batch.negatives, view).tolist()), set(between(batch.positives[:2], view).tolist())
    return positives, own, [c for c in range(len(batch.item_rows)) if c in positives or (c not in masked and (c in own or not batch.alone[c]))]


def by_loops(logits, batch, options):
    """KL(teacher || student) of each view in plain Python on float64: a loop over views, one over what takes part."""
    found = []
    for view in range(len(batch.query_rows)):
        if batch.scored is not None:
            there = between(batch.scored.cells, view).tolist()
            told = batch.scored.scores[batch.scored.cells.offsets[view] :].tolist()[: len(there)]
            off = [0.0] * len(there)
        else:
            positives, own, there = part_of(batch, view)
            products = (batch.taught.queries[view].astype(float) @ batch.taught.items.astype(float).T).tolist()
            told = [products[c] for c in there]
            bare = [
                not options.correction or (c in own or (batch.alone[c] and c not in positives)) or (c in positives and not options.correct_positive)
                for c in there
            ]
            off = [0.0 if none else float(batch.log_prob[c]) for c, none in zip(there, bare, strict=True)]
        if not there:
            found.append(logits.sum() * 0)
            continue
        student = torch.stack([logits[view, c] - o for c, o in zip(there, off, strict=True)])
        teacher = torch.tensor([t / options.teacher_temperature - o for t, o in zip(told, off, strict=True)], dtype=torch.float64)
        share = teacher.exp() / teacher.exp().sum()
        found.append((share * (share.log() - (student.exp() / student.exp().sum()).log())).sum())
    return torch.stack(found)


WAYS = {"towers": taught_batch, "scores": scored_batch}
CHOICES = [
    LossOptions(teacher_weight=1.0),
    LossOptions(teacher_weight=1.0, correction=False, teacher_temperature=2.0),
    LossOptions(teacher_weight=0.3, correct_positive=False),
    LossOptions(teacher_weight=0.3, loss="bilateral", smoothing=0.1),
    LossOptions(teacher_weight=0.7, loss="sigmoid"),
    LossOptions(teacher_weight=0.4, symmetric=True),
    LossOptions(teacher_weight=0.4, widths=(3,)),
]


@pytest.mark.parametrize("cells", [1, 40, 1 << 19])
@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_blocks_equal_loops_over_views_and_autograd(way, options, cells, monkeypatch):
    monkeypatch.setitem(blockwise.CELLS, "cpu", cells)
    monkeypatch.setattr(blockwise, "ROWS", 1)
    batch = WAYS[way]()
    weights = torch.as_tensor(batch.positives.weights).double()
    views = relation(batch, CPU).views

    def expected(queries, items, log_scale):
        loss = plain(queries, items, log_scale, batch._replace(scored=None, taught=None), options).double()
        distances = []
        for width in (queries.shape[1], *options.widths):
            q, i = (torch.nn.functional.normalize(one[:, :width], dim=1) if width < queries.shape[1] else one for one in (queries, items))
            distances.append((by_loops(((q * log_scale.exp()) @ i.T).double(), batch, options)[views] * weights).sum() / weights.sum())
        return (1 - options.teacher_weight) * loss + options.teacher_weight * torch.stack(distances).mean()

    outcomes = []
    for find in (expected, lambda *given: loss_of(*given, batch, options).mean.double()):
        given = vectors_of(batch)
        loss = find(*given)
        (3 * loss).backward()
        outcomes.append((loss.detach(), *(one.grad for one in given)))
    for wanted, found in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, wanted, rtol=3e-5, atol=3e-6)
    assert outcomes[0][1].abs().max() > 1e-4


def small(**given):
    """Two views, three candidates: the first view matches candidate 0, the second matches 1 and knows 2, which is masked."""
    log = Log(*(np.array([0, 1]) for _ in range(3)), *np.ones((2, 2), np.float32))
    batch = complete(draft(log, np.arange(2)), np.arange(3), np.zeros(3, np.float32), ragged([[0], [1, 2]]))
    return batch._replace(**given)


def test_two_views_and_three_candidates_by_hand():
    # The teacher gives the three candidates of the first view 1, 1 and 2 parts of 4; the student gives each one of 3. To the second view the
    # third candidate is masked: the teacher gives 3 and 1 of 4, the student a half each.
    taught = Taught(np.log(np.array([[1, 1, 2], [3, 1, 9]], np.float32)), np.eye(3, dtype=np.float32))
    batch = small(taught=taught)
    apart, gradient = lesson(batch, CPU).step(torch.zeros(2, 3), relation(batch, CPU), torch.ones(2), PURE)
    first = 2 * 0.25 * math.log(0.25 * 3) + 0.5 * math.log(0.5 * 3)
    second = 0.75 * math.log(0.75 * 2) + 0.25 * math.log(0.25 * 2)
    assert apart.tolist() == pytest.approx([first, second], abs=1e-6)
    assert gradient[0].tolist() == pytest.approx([1 / 3 - 1 / 4, 1 / 3 - 1 / 4, 1 / 3 - 1 / 2], abs=1e-6)
    assert gradient[1].tolist() == pytest.approx([1 / 2 - 3 / 4, 1 / 2 - 1 / 4, 0], abs=1e-6) and gradient[1, 2] == 0


def test_scores_by_hand():
    # Of the first view candidates 0 and 2 are scored, 1 and 3 of 4 parts; the student gives them 2 and 1 of 3. The second has one score.
    batch = small(scored=Scored(ragged([[0, 2], [1]]), np.log(np.array([1, 3, 7], np.float32))))
    logits = torch.tensor([[2.0, 9.0, 1.0], [1.0, 5.0, 1.0]]).log()
    apart, gradient = lesson(batch, CPU).step(logits, relation(batch, CPU), torch.tensor([2.0, 1.0]), PURE)
    assert apart.tolist() == pytest.approx([0.25 * math.log(0.25 * 3 / 2) + 0.75 * math.log(0.75 * 3), 0], abs=1e-6)
    assert gradient.tolist() == [pytest.approx([2 * (2 / 3 - 1 / 4), 0, 2 * (1 / 3 - 3 / 4)], abs=1e-6), [0, 0, 0]]


@pytest.mark.parametrize("value", [-40.0, 0.0, 40.0, 1e4])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_masked_candidate_takes_no_part_on_either_side(side, value):
    told = []
    for put in (0.0, value):
        queries, logits = np.log(np.array([[1, 1, 2], [3, 1, 9]], np.float32)), torch.zeros(2, 3)
        if side == "teacher":
            queries[1, 2] = put
        else:
            logits[1, 2] = put
        batch = small(taught=Taught(queries, np.eye(3, dtype=np.float32)))
        told.append(lesson(batch, CPU).step(logits, relation(batch, CPU), torch.ones(2), PURE))
        assert told[-1][1][1, 2] == 0
    torch.testing.assert_close(*told, rtol=0, atol=0)


def test_a_student_that_says_the_same_learns_nothing_and_is_nowhere_apart():
    batch = taught_batch()
    logits = torch.as_tensor(batch.taught.queries @ batch.taught.items.T)
    apart, gradient = lesson(batch, CPU).step(logits, relation(batch, CPU), torch.ones(len(logits)), LossOptions())
    assert apart.abs().max() < 1e-5 and gradient.abs().max() < 1e-6


def test_of_what_the_teacher_does_not_know_nothing_is_learnt():
    batch = taught_batch()
    batch.taught.queries[0] = 0
    logits = torch.randn(len(batch.query_rows), len(batch.item_rows), generator=torch.Generator().manual_seed(0))
    apart, gradient = lesson(batch, CPU).step(logits, relation(batch, CPU), torch.ones(len(logits)), LossOptions())
    assert apart[0] == 0 and (gradient[0] == 0).all() and (apart[1:] > 0).all()


def test_the_distance_is_never_negative_and_falls_along_its_gradient():
    for way in WAYS.values():
        batch = way(3)
        related, taught = relation(batch, CPU), lesson(batch, CPU)
        logits = torch.randn(len(batch.query_rows), len(batch.item_rows), generator=torch.Generator().manual_seed(0))
        ones = torch.ones(len(logits))
        apart, gradient = taught.step(logits, related, ones, LossOptions())
        assert (apart > -1e-6).all() and apart.max() > 0.1
        assert taught.step(logits - 0.5 * gradient, related, ones, LossOptions())[0].sum() < apart.sum()


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in ("hinge", "triplet", "cosine_contrastive", "pointwise")])
def test_the_teachers_options_change_the_loss(loss):
    batch = taught_batch()
    found = {
        str(changes): loss_of(*vectors_of(batch), batch, LossOptions(loss=loss, **changes)).mean.item()
        for changes in ({}, {"teacher_weight": 0.2}, {"teacher_temperature": 3.0})
    }
    bare = loss_of(*vectors_of(batch), batch._replace(taught=None), LossOptions(loss=loss)).mean.item()
    assert len({round(value, 5) for value in (*found.values(), bare)}) == 4


# --- scores in the log


def test_a_batch_finds_the_scores_of_its_pairs():
    # Two query rows of one key: what was scored for one says nothing of the other. A pair scored twice has the mean.
    columns = [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 1, 4, 0, 2, 2]]
    log = Log(*(np.array(c) for c in columns), *np.ones((2, 6), np.float32), teacher=np.array([1, 2, 5, np.nan, 3, 4], np.float32))
    found = pair_scores(log._replace(labels=np.array([1, 1, 0, 1, 1, 1], np.float32)), 1, 5)
    part = draft(log, np.array([0, 1, 3, 4, 5]))
    batch = complete(part, np.arange(4), np.zeros(4, np.float32), ragged([[0, 1, 2]]), ragged([[4], [4]]))
    scored = found.of(batch)
    told = [dict(zip(between(scored.cells, v).tolist(), between((scored.scores, scored.cells.offsets), v).tolist(), strict=True)) for v in (0, 1)]
    assert told == [{0: 1.0, 1: 2.0, 4: 5.0}, {2: 3.5}]


def test_scores_of_which_no_query_has_two_are_refused():
    log = Log(*(np.array([0, 1]) for _ in range(3)), *np.ones((2, 2), np.float32), teacher=np.array([1, np.nan], np.float32))
    for scores in ([1, 2], [1, np.nan], [np.nan, np.nan]):
        with pytest.raises(DataError, match="no query of the training part has scores of two items"):
            pair_scores(log._replace(teacher=np.array(scores, np.float32)), 2, 2)
    assert pair_scores(log._replace(teacher=None), 2, 2) is None


SCHEMA = Schema(
    query=QuerySide(features=(Text(column="q"),)),
    item=ItemSide(id="item", features=(Id(column="item"),)),
    pairs=PairColumns(label="label", teacher="score"),
)
ROWS = [{"q": f"ask {n % 15}", "item": n % 8, "label": float(n % 3), "score": float(n) if n % 4 else None} for n in range(60)]


def made(rows, folder, **changes):
    schema = replace(SCHEMA, pairs=replace(SCHEMA.pairs, **changes))
    return prepare(open_source(rows, "pairs"), None, schema, SplitOptions(test=0.1, validation=0.1), folder)


@pytest.mark.parametrize("repeats", ["count", "first", "keep"])
def test_scores_come_from_a_column(tmp_path, repeats):
    again = [row | {"score": 1000.0} for row in ROWS[:10]]
    prepared = made([*ROWS, *again], tmp_path, repeats=repeats)
    assert prepared.report["pairs_without_teacher_score"] == 15
    asked = prepared.queries.column(0).to_pylist()
    found = {}
    log = prepared.log
    for row, item, score, label in zip(
        log.query_rows, prepared.items.column("_id").take(log.item_rows).to_pylist(), log.teacher, log.labels, strict=True
    ):
        found.setdefault((asked[row], item, label > 0), []).append(float(score))
    for n, row in enumerate(ROWS[:10]):
        told = found.get((row["q"], row["item"], row["label"] > 0))
        first = math.nan if row["score"] is None else row["score"]
        mean = 1000.0 if row["score"] is None else (row["score"] + 1000.0) / 2
        wanted = {"count": [mean], "first": [first], "keep": [first, 1000.0]}[repeats]
        assert told is None or len(told) < len(wanted) or np.array_equal(sorted(told), sorted(wanted), equal_nan=True), n


def test_scores_that_are_no_finite_number_are_refused(tmp_path):
    for wrong, said in ((math.inf, r'rows 3, 4: the teacher\'s score "score" is inf; it must be a finite number'), (1e39, "finite number")):
        with pytest.raises(DataError, match=said):
            made([row | {"score": wrong if n in (2, 3) else 1.0} for n, row in enumerate(ROWS)], tmp_path)
    with pytest.raises(DataError, match="a number is needed"):
        made([row | {"score": "good"} for row in ROWS], tmp_path)
    with pytest.raises(DataError, match=r"pairs\.teacher"):
        made([{name: value for name, value in row.items() if name != "score"} for row in ROWS], tmp_path)
    assert made([row | {"score": math.nan if n % 2 else 1.0} for n, row in enumerate(ROWS)], tmp_path).report["pairs_without_teacher_score"] == 30


def test_a_student_takes_the_scores_of_its_teacher_for_its_own(tmp_path):
    """Every query is shown three items of which the log says no more than that two do not match: only the teacher tells those two apart."""
    generator, rows = np.random.default_rng(0), []
    for _ in range(150):
        good, fair, poor = (generator.permutation(6)[:3]).tolist()
        words = f"likes{good} bears{fair} hates{poor}"
        for item, label, score in ((good, 1, 4.0), (fair, 0, 2.0), (poor, 0, -2.0)):
            rows.append({"q": words, "item": item, "label": label, "score": score})
    values = {
        "pairs": {"label": "label", "teacher": "score"},
        "query": {"features": [{"column": "q", "type": "text", "buckets": 1024, "pairs": False, "pieces": []}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "random", "test": 0.1, "validation": 0.1},
        "model": {"dimensions": 16},
        "train": {"epochs": 25, "batch_size": 32, "teacher_weight": 1.0, "patience": 0},
    }
    queries = [f"likes{a} bears{b} hates{c}" for a in range(6) for b in range(6) for c in range(6) if len({a, b, c}) == 3]
    agreed = {}
    for name, changes in {"taught": {}, "untaught": {"pairs": {"label": "label"}, "train": values["train"] | {"teacher_weight": 0.5}}}.items():
        chosen = from_values(values | changes)
        prepared = prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, tmp_path)
        data = training.data_of(prepared, chosen.train, chosen.evaluate)
        state = training.start(build(prepared.encoder, chosen.model, chosen.train.seed), data, chosen.train)
        training.fit(state, data, chosen.train, chosen.evaluate)
        vectors = state.model.encode("query", prepared.encoder.encode("query", to_table([{"q": q} for q in queries])))
        items = state.model.encode("item", prepared.columns["item"])
        place = {int(one): n for n, one in enumerate(prepared.items.column("_id").to_pylist())}
        scores = (vectors @ items.T).numpy()
        orders = [scores[n, [place[int(word[-1])] for word in q.split()]] for n, q in enumerate(queries)]
        agreed[name] = np.mean([a > b > c for a, b, c in orders])
    assert agreed["taught"] > 0.9 > 0.7 > agreed["untaught"]


# --- a model as a teacher


def config_of(world_folder, **train):
    return WORLD_CONFIG | {"train": WORLD_CONFIG["train"] | {"teacher": str(world_folder), **train}}


def test_a_small_student_learns_from_a_model_alone(world, world_folder, world_run, tmp_path):
    """With the teacher's word alone, and never its own log's, the student ranks what the teacher ranks."""
    values = config_of(world_folder, teacher_weight=1.0, negatives="full") | {"model": {"dimensions": 16}}
    run = tt.train(*world, config=values, output=tmp_path / "student")
    assert run.metrics["model"]["mrr"]["value"] > 0.9 * world_run.metrics["model"]["mrr"]["value"]
    kept = configs.read(run.folder / "bundle" / "model" / "config.toml")
    assert str(tmp_path) not in (run.folder / "bundle" / "model" / "config.toml").read_text() and kept.train.teacher.endswith(world_folder.name)
    begun = read_json(run.folder / "prepared.json")
    assert begun["teacher"] == world_run.retriever.bundle.fingerprint
    # Broken off before its end, it goes on with the same teacher alone.
    (run.folder / "metrics.json").unlink()
    write_json(run.folder / "prepared.json", begun | {"teacher": "another"})
    with pytest.raises(BundleError, match="has changed since it was begun"):
        tt.train(*world, config=run.folder / "config.toml", output=run.folder, resume=True)
    write_json(run.folder / "prepared.json", begun)
    again = tt.train(*world, config=run.folder / "config.toml", output=run.folder, resume=True)
    assert again.metrics["model"] == run.metrics["model"]


def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_written(world, world_folder, tmp_path):
    pairs, items = world
    bare = config_of(world_folder)
    bare["item"] = {"id": "name", "features": [{"column": "name", "type": "id"}]}
    with pytest.raises(ConfigError, match=r"teacher = .* reads title, kind of an item, which this run does not"):
        tt.train(pairs, items, config=bare, output=tmp_path / "run")
    with pytest.raises(BundleError, match="nowhere"):
        tt.train(pairs, items, config=config_of(tmp_path / "nowhere"), output=tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize(
    ("pairs", "train", "said"),
    [
        ({}, {"teacher_weight": 0.2}, "there is none"),
        ({}, {"teacher_temperature": 2.0}, "there is none"),
        ({"teacher": "s"}, {"teacher": "runs/x"}, "two teachers"),
        ({"teacher": "s"}, {"loss": "hinge"}, "takes similarities as they are"),
        ({"teacher": "s"}, {"teacher_weight": 1.0, "smoothing": 0.1}, "smoothing would say nothing"),
        ({"teacher": "s"}, {"teacher_weight": 1.0, "correction": False}, "correction would say nothing"),
        ({}, {"teacher": "runs/x", "teacher_weight": 1.0, "loss": "bilateral"}, "loss would say nothing"),
        ({}, {"positives": "graded"}, "orders matches by their labels"),
        ({"teacher": "s"}, {"teacher_weight": 0.0}, "teacher_weight"),
    ],
)
def test_what_would_say_nothing_is_refused(pairs, train, said):
    values = {"query": {"features": [{"column": "q", "type": "text"}]}, "item": {"features": [{"column": "i", "type": "text"}]}}
    with pytest.raises(ConfigError, match=said):
        from_values(values | {"pairs": pairs, "train": train})


def test_the_place_of_a_teacher_is_taken_from_the_config(tmp_path):
    sides = '[query]\nfeatures = [{ column = "q", type = "text" }]\n[item]\nfeatures = [{ column = "i", type = "text" }]\n'
    (tmp_path / "c.toml").write_text("version = 1\n" + sides + '[train]\nteacher = "runs/big"\n')
    assert configs.read(tmp_path / "c.toml").train.teacher == str(tmp_path / "runs" / "big")

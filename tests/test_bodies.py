"""What a tower does with its parts: where each body starts, what each option changes, and what is refused."""

from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from twotower.data.encoder import Encoder
from twotower.data.features import Number
from twotower.errors import ConfigError
from twotower.model.bodies import BODIES, custom
from twotower.model.options import ModelOptions
from twotower.model.towers import build, shown

N, F, D = 6, 3, 8


def options(**given):
    return ModelOptions(**{"dimensions": D, "hidden": (5,), **given})


def body_of(seed=0, moved=False, **given):
    """A body of its options; moved: off its start, as training would."""
    torch.manual_seed(seed)
    made = options(**given)
    module = BODIES[made.body](F, made)
    if moved:
        generator = torch.Generator().manual_seed(1)
        for parameter in module.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def parts():
    return torch.randn(N, F, D, generator=torch.Generator().manual_seed(5))


def test_every_body_has_a_name_in_the_options():
    assert set(get_args(get_type_hints(ModelOptions)["body"])) == {*BODIES, "custom"}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_rows_pass_a_body_each_on_its_own(body, moved):
    module = body_of(body=body, moved=moved)
    found = module(parts())
    assert found.shape == (N, D)
    for number in range(N):
        torch.testing.assert_close(module(parts()[number : number + 1])[0], found[number], rtol=1e-5, atol=1e-5)
    assert module(parts()[:0]).shape == (0, D)


STARTS = [{"body": "none"}, {"body": "linear"}]
STARTS += [{"body": body, "depth": depth, "norm": norm} for body in ("residual", "cross") for depth in (1, 3) for norm in ("layer", "none")]


@pytest.mark.parametrize("given", STARTS)
def test_a_body_starts_as_the_sum_of_its_parts(given):
    module = body_of(**given)
    torch.testing.assert_close(module(parts()), parts().sum(1))
    if given["body"] != "none":
        # It can be trained from there: the first step already moves it.
        (module(parts()) * torch.randn(N, D)).sum().backward()
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
        assert not torch.allclose(body_of(**given, moved=True)(parts()), parts().sum(1), atol=1e-2)


def test_an_mlp_is_no_sum():
    assert not torch.allclose(body_of(body="mlp")(parts()), parts().sum(1), atol=0.1)


def test_a_linear_body_weighs_each_part_by_hand():
    module = body_of(body="linear", moved=True)
    weight, bias = module.change.weight.detach(), module.change.bias.detach()
    expected = sum((torch.eye(D) + weight[:, f * D : (f + 1) * D]) @ parts()[:, f].T for f in range(F)).T + bias
    torch.testing.assert_close(module(parts()), expected, rtol=1e-4, atol=1e-5)


def test_a_cross_multiplies_by_hand():
    module = body_of(body="cross", moved=True, depth=2, norm="none")
    x0 = x = parts().flatten(1)
    for layer in module.crosses:
        x = x0 * (x @ layer.weight.T + layer.bias) + x
    torch.testing.assert_close(module(parts()), parts().sum(1) + x @ module.last.weight.T + module.last.bias, rtol=1e-4, atol=1e-4)


CHANGES = [
    ("mlp", {"hidden": (7,)}),
    ("mlp", {"hidden": (5, 5)}),
    ("mlp", {"hidden": ()}),
    ("mlp", {"norm": "none"}),
    ("residual", {"hidden": (7,)}),
    ("residual", {"norm": "none"}),
    ("residual", {"depth": 2}),
    ("cross", {"depth": 2}),
    ("cross", {"norm": "none"}),
]


@pytest.mark.parametrize(("body", "change"), CHANGES)
def test_every_option_changes_something(body, change):
    one, other = body_of(body=body, moved=True), body_of(body=body, moved=True, **change)
    assert not torch.allclose(one(parts()), other(parts()), atol=1e-3)


@pytest.mark.parametrize("body", ["linear", "mlp", "residual", "cross"])
def test_dropout_is_for_training(body):
    plain, dropping = body_of(body=body, moved=True), body_of(body=body, moved=True, dropout=0.5)
    torch.testing.assert_close(plain(parts()), dropping(parts()))
    torch.testing.assert_close(plain.train()(parts()), plain.eval()(parts()))
    dropping.train()
    assert not torch.allclose(dropping(parts()), dropping(parts()), atol=1e-3)


VALUES = {"hidden": (7,), "depth": 2, "norm": "none", "dropout": 0.1, "shared_body": True}
READ = {
    "none": set(),
    "linear": {"dropout", "shared_body"},
    "mlp": {"hidden", "norm", "dropout", "shared_body"},
    "residual": {"hidden", "depth", "norm", "dropout", "shared_body"},
    "cross": {"depth", "norm", "dropout", "shared_body"},
    "custom": {"shared_body"},
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("body", READ)
def test_options_that_a_body_does_not_read_are_refused(body, name):
    made = ModelOptions(body=body, **{name: VALUES[name]})
    if name in READ[body]:
        made.check()
    else:
        with pytest.raises(ConfigError, match=f'body = "{body}" does not read {name}'):
            made.check()


# --- custom and shared --------------------------------------------------------------------------------------------


class Last(nn.Module):
    def __init__(self, features, dimensions):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(features))

    def forward(self, parts):
        return (parts * self.weights.unsqueeze(-1)).sum(1) * 2


class Wrong(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, parts):
        return self.give(parts)


def test_a_custom_body_is_taken_as_it_is():
    module = custom(Last, F, D)
    assert module.training
    torch.testing.assert_close(module(parts()), 2 * parts().sum(1))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda f, d: 7, "must be a torch.nn.Module.*it is int"),
        (lambda f, d: torch.zeros(3), "must be a torch.nn.Module.*it is Tensor"),
        (lambda f: Last(f, 8), "function of .features, dimensions."),
        (7, "function of .features, dimensions."),
        (lambda f, d: Wrong(lambda x: x), r"must take \[n, 3, 8\] to \[n, 8\]; for n = 3 it gave \(3, 3, 8\)"),
        (lambda f, d: Wrong(lambda x: x.sum((0, 1))), r"it gave \(8,\)"),
        (lambda f, d: Wrong(lambda x: [x]), "it gave list"),
        (lambda f, d: nn.Linear(d + 1, d), "it raised RuntimeError"),
    ],
)
def test_a_custom_body_that_cannot_be_one_is_refused(body, said):
    with pytest.raises(ConfigError, match=said):
        custom(body, F, D)


def encoder(query=2, item=2):
    features = {"query": tuple(Number(column=f"q{n}") for n in range(query)), "item": tuple(Number(column=f"i{n}") for n in range(item))}
    moments = {"moments": torch.tensor([0.0, 1.0]).double().numpy()}
    return Encoder(features, {side: {f"{feature.column}:number": moments for feature in features[side]} for side in features})


@pytest.mark.parametrize("body", ["linear", "mlp", "residual", "cross"])
def test_a_shared_body_is_one_module(body):
    shared, apart = (build(encoder(), options(body=body, shared_body=value)) for value in (True, False))
    assert shared.query.body is shared.item.body
    assert apart.query.body is not apart.item.body
    assert len(list(apart.parameters())) > len(list(shared.parameters()))
    if body == "residual":  # works on the sum of the parts, however many they are
        build(encoder(query=3), options(body=body, shared_body=True))
        return
    with pytest.raises(ConfigError, match="as many features"):
        build(encoder(query=3), options(body=body, shared_body=True))


def test_custom_bodies_are_passed_by_side():
    bodies = {"query": Last, "item": lambda f, d: nn.Sequential(nn.Flatten(), nn.Linear(f * d, d))}
    model = build(encoder(), options(body="custom"), bodies=bodies)
    assert isinstance(model.query.body, Last) and isinstance(model.item.body, nn.Sequential)
    shared = build(encoder(), options(body="custom", shared_body=True), bodies={"item": Last})
    assert shared.query.body is shared.item.body
    for missing in (None, {"item": Last}):
        with pytest.raises(ConfigError, match="which only Python can pass"):
            build(encoder(), options(body="custom"), bodies=missing)


def test_a_training_step_hides_features_but_never_all_of_a_row():
    seen = shown(2000, 3, 0.4, torch.device("cpu"))
    assert 0.36 < 1 - seen.float().mean() < 0.4  # a little less than asked, since the last one stays
    assert shown(2000, 3, 0.95, torch.device("cpu")).any(1).all()
    model, plain = (build(encoder(), options(feature_dropout=value)).query for value in (0.5, 0.0))
    columns = {name: torch.randn(50, 2) for name in plain.names}
    hidden = (~torch.isclose(model(columns), plain(columns)).all(1)).float().mean()
    assert 0.6 < hidden < 0.9
    assert torch.equal(model.eval()(columns), plain(columns))
    build(encoder(query=1), options(feature_dropout=0.5))
    with pytest.raises(ConfigError, match="feature_dropout hides some features"):
        build(encoder(query=1, item=1), options(feature_dropout=0.5))

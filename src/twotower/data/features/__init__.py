"""The kinds of column that a tower can read: how each is fitted and turned into numbers.

To add one: a frozen dataclass with the methods of `Feature` in a module here, its entry in `FEATURES`, and its layer of the
same name in `model/layers`. What a feature is declared to be is its fields; what the data taught it is its state, a dict of
arrays that is saved with the model. `encode` is the only code that turns raw values into numbers, in training and at look-up.
"""

from twotower.data.features.feature import Feature, Form, Part, State, Unreadable
from twotower.data.features.history import History
from twotower.data.features.names import MISSING, UNKNOWN, Categories, Category, Id
from twotower.data.features.numbers import Number
from twotower.data.features.pieces import Pieces
from twotower.data.features.pretrained import Pretrained
from twotower.data.features.text import Text
from twotower.data.features.times import Time
from twotower.data.features.vectors import Vector

FEATURES: dict[str, type] = {
    "id": Id,
    "category": Category,
    "categories": Categories,
    "number": Number,
    "time": Time,
    "vector": Vector,
    "text": Text,
    "pieces": Pieces,
    "pretrained": Pretrained,
    "history": History,
}
FeatureOptions = Id | Category | Categories | Number | Time | Vector | Text | Pieces | Pretrained | History

__all__ = [
    "FEATURES",
    "MISSING",
    "UNKNOWN",
    "Categories",
    "Category",
    "Feature",
    "FeatureOptions",
    "Form",
    "History",
    "Id",
    "Number",
    "Part",
    "Pieces",
    "Pretrained",
    "State",
    "Text",
    "Time",
    "Unreadable",
    "Vector",
]

"""What `import twotower` gives: sorted, true, and nothing heavy before it is used."""

import subprocess
import sys

import pytest

import twotower


def test_the_names_are_sorted_and_true():
    assert twotower.__all__ == sorted(twotower.__all__)
    assert len(set(twotower.__all__)) == len(twotower.__all__)
    for name in twotower.__all__:
        assert getattr(twotower, name).__name__ == name
    assert set(twotower.__all__) <= set(dir(twotower))
    assert twotower.__version__.count(".") == 2


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no_such_name"):
        twotower.no_such_name  # noqa: B018


def test_every_error_is_one_of_ours():
    errors = [getattr(twotower, name) for name in twotower.__all__ if name.endswith(("Error", "Extra"))]
    assert len(errors) == 6
    assert all(issubclass(error, twotower.TwotowerError) for error in errors)


def imported(code):
    """What of the heavy libraries a fresh process holds after this code."""
    heavy = {"torch", "pyarrow", "numpy", "duckdb", "onnxruntime", "pydantic", "pandas", "rich", "onnx"}
    program = f"import sys\n{code}\nprint(*sorted({heavy!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_importing_costs_nothing():
    assert imported("import twotower; twotower.__version__, dir(twotower), twotower.TwotowerError") == []


def test_look_up_and_configs_import_no_torch():
    assert "torch" not in imported("import twotower; twotower.load, twotower.Retriever, twotower.Config, twotower.train, twotower.evaluate")

import inspect

import pytest

from verbot import errors


def test_every_error_is_a_verbot_error():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    kinds = [kind for kind in kinds if not issubclass(kind, Warning)]
    assert len(kinds) >= 10
    assert all(issubclass(kind, errors.VerbotError) for kind in kinds)
    assert all(kind.__doc__ for kind in kinds)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.SpecError("x"), ValueError),
        (errors.ConfigError("x"), ValueError),
        (errors.WireError("x"), ValueError),
        (errors.MissingDependencyError("x"), ImportError),
        (errors.UnknownNameError("env", "a", ["b"]), LookupError),
        (errors.CorruptFileError("f", "x"), errors.DataError),
    ],
)
def test_errors_are_also_what_python_calls_them(error, builtin):
    assert isinstance(error, builtin)


def test_messages_teach():
    unknown = errors.UnknownNameError("env", "tabletop-startr", ["tabletop-starter", "navigation"])
    assert str(unknown) == (
        "there is no env named 'tabletop-startr'. Did you mean 'tabletop-starter'? Known: navigation, tabletop-starter"
    )
    assert (unknown.kind, unknown.name, unknown.known) == ("env", "tabletop-startr", ("navigation", "tabletop-starter"))
    assert str(errors.UnknownNameError("env", "xyz", [])) == "there is no env named 'xyz'. Known: none"
    corrupt = errors.CorruptFileError("a/b.parquet", "checksum differs")
    assert (str(corrupt), corrupt.path, corrupt.reason) == ("a/b.parquet: checksum differs", "a/b.parquet", "checksum differs")


def test_a_missing_extra_is_named_and_other_modules_are_left_alone():
    reported = errors.missing(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert isinstance(reported, errors.MissingDependencyError)
    assert str(reported) == "this needs torch, which is not installed: pip install 'verbot[torch]'"
    other = ModuleNotFoundError("No module named 'nothing'", name="nothing")
    assert errors.missing(other) is other

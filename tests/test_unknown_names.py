"""What is said of a name that is not known: the nearest one first, and how to see them all."""

from __future__ import annotations

import pytest

from bilevel_gym.core.checks import FEW_NAMES, check_options, unknown_name

FEW = ("banded", "dense", "newton")
MANY = tuple(f"Bilevel{name}-v0" for name in ("Toll", "Taxi", "Pendulum", "PreferencePendulum"))
MANY += tuple(f"option_{number}" for number in range(FEW_NAMES))


@pytest.mark.parametrize(
    ("known", "name", "said"),
    [
        (FEW, "dens", "'dens'. Did you mean 'dense'? Accepted: 'banded', 'dense', 'newton'"),
        (FEW, "NEWTON", "'NEWTON'. Did you mean 'newton'? Accepted: 'banded', 'dense', 'newton'"),
        (FEW, "qqq", "'qqq'; accepted: 'banded', 'dense', 'newton'"),
        (FEW, "", "''; accepted: 'banded', 'dense', 'newton'"),
        (FEW, 3, "3; accepted: 'banded', 'dense', 'newton'"),
        ((), "dens", "'dens'; accepted: none"),
        (MANY, "BilevelTol-v0", "'BilevelTol-v0'. Did you mean 'BilevelToll-v0'? `list` lists all"),
        (MANY, "toll", "'toll'. Did you mean 'BilevelToll-v0'? `list` lists all"),
        (MANY, "pendulum", "'pendulum'. Did you mean 'BilevelPendulum-v0'? `list` lists all"),
        (MANY, "Qqq", "'Qqq'; `list` lists all"),
    ],
)
def test_the_nearest_name_comes_first_and_only_few_are_listed(
    known: tuple[str, ...], name: object, said: str
) -> None:
    assert unknown_name("name", name, known, listed_by="list") == f"unknown name {said}"


def test_without_a_command_many_names_are_listed_only_where_none_is_near() -> None:
    said = unknown_name("name", "BilevelTol-v0", MANY)
    assert said == "unknown name 'BilevelTol-v0'. Did you mean 'BilevelToll-v0'?"
    assert all(repr(name) in unknown_name("name", "Qqq", MANY) for name in MANY)


def test_a_name_of_any_length_or_kind_gets_one_short_line() -> None:
    for name in ("x" * 100_000, ["list"], None, "two\nlines", float("nan")):
        said = unknown_name("name", name, FEW)
        assert len(said) < 300 and "\n" not in said


def test_options_name_the_command_that_lists_them() -> None:
    names = [f"option_{number}" for number in range(FEW_NAMES + 1)]
    many = eval(f"lambda *, {'=0, '.join(names)}=0: None")
    with pytest.raises(TypeError, match=r"^unknown option for it: 'q'; `the command` lists all$"):
        check_options("it", many, ["q"], listed_by="the command")

import pytest

from kaseg.close_names import did_you_mean


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("learning_rat", {}, " Did you mean 'learning_rate'?"),
        ("Learning-Rate", {"key": lambda item: item.casefold().replace("-", "_")}, " Did you mean 'learning_rate'?"),
        ("sed", {"cutoff": 0.5}, " Did you mean 'seed' or 'speed'?"),
        ("zzz", {}, ""),
        ("zzz", {"otherwise": " There are two."}, " There are two."),
    ],
)
def test_close_names_are_named(name: str, options: dict, expected: str) -> None:
    assert did_you_mean(name, ["learning_rate", "seed", "speed"], **options) == expected

from kaseg.cli.output import percent


def test_percent_and_a_dash_for_what_is_not_there() -> None:
    assert [percent(value) for value in (0.12345, 0.0, None, float("nan"))] == ["12.35", "0.00", "–", "–"]

import pytest

from kaseg.best_effort import best_effort, noting


@pytest.mark.parametrize("error", [ValueError("no room"), KeyError("mean_iou"), RuntimeError("")])
def test_a_failure_is_a_warning_that_names_what_failed(error: Exception, caplog) -> None:
    with best_effort("the plot", "The scores are in scores.json."):
        raise error
    (record,) = caplog.records
    assert record.levelname == "WARNING" and type(error).__name__ in record.message
    assert "Failed: the plot" in record.message and record.message.endswith("The scores are in scores.json.")


def test_the_user_can_still_end_it_and_notes_say_where_the_result_is() -> None:
    with pytest.raises(KeyboardInterrupt), best_effort("the plot"):
        raise KeyboardInterrupt
    with pytest.raises(OSError) as caught, noting("The model is in out."):
        raise OSError("disk full")
    assert caught.value.__notes__ == ["The model is in out."]

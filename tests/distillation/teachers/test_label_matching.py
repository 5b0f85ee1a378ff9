import pytest
import torch

from kaseg.distillation.teachers import match_labels

STUDENT = ["background", "dining table", "Potted-Plant", "kite"]
TEACHER = ["wall", "Background", "DiningTable", "potted_plant", "car", "bus"]


class TestByName:
    def test_case_spaces_and_punctuation_do_not_matter(self) -> None:
        match = match_labels(STUDENT, TEACHER)
        assert match.groups == {0: (1,), 1: (2,), 2: (3,)} and match.known_classes == (0, 1, 2)

    def test_report_names_pairs_and_unknown_classes(self) -> None:
        report = match_labels(STUDENT, TEACHER).report()
        assert "knows 3 of the student's 4" in report and "dining table = DiningTable" in report
        assert report.endswith("does not know kite")
        assert match_labels(STUDENT, STUDENT).report() == "the teacher has the student's 4 classes"

    def test_nothing_in_common(self) -> None:
        assert match_labels(["sky"], TEACHER).known_classes == ()

    def test_two_classes_of_one_name_count_together(self) -> None:
        assert match_labels(["screen"], ["screen", "wall", "Screen"]).groups == {0: (0, 2)}

    @pytest.mark.parametrize("teacher", [["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"], ["0", "1", "2", "3"]])
    def test_classes_without_names_are_the_same_if_as_many(self, teacher) -> None:
        assert match_labels(STUDENT, teacher).groups == {0: (0,), 1: (1,), 2: (2,), 3: (3,)}
        assert match_labels(STUDENT[:3], teacher).groups == {}


class TestByMap:
    def test_goes_before_names(self) -> None:
        match = match_labels(STUDENT, TEACHER, {"kite": ["car", 5], "background": "wall", 2: None})
        assert match.groups == {0: (0,), 1: (2,), 3: (4, 5)}

    def test_classes_without_names_are_then_told_alone(self) -> None:
        assert match_labels(STUDENT, ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"], {"kite": 0}).groups == {3: (0,)}

    @pytest.mark.parametrize(
        "label_map, message",
        [
            ({"kit": "car"}, "names 'kit', which is no class of the student. Did you mean 'kite'"),
            ({"kite": "cars"}, "names 'cars', which is no class of the teacher. Did you mean 'car'"),
            ({"kite": "zebra"}, "Its classes: wall, Background"),
            ({"kite": 6}, "class 6, but the teacher has ids 0 to 5"),
            ({"kite": "DiningTable"}, "'DiningTable' stands for two of the student's, 'dining table' and 'kite'"),
        ],
    )
    def test_errors(self, label_map, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            match_labels(STUDENT, TEACHER, label_map)


class TestLogits:
    def test_are_put_in_the_students_order(self) -> None:
        logits = torch.randn(2, 6, 3, 3)
        assert torch.equal(match_labels(STUDENT, TEACHER).student_logits(logits), logits[:, [1, 2, 3]])
        own = torch.randn(2, 4, 3, 3)
        assert match_labels(STUDENT, STUDENT).student_logits(own) is own

    def test_classes_that_make_up_one_add_their_probabilities(self) -> None:
        logits = torch.randn(2, 6, 3, 3, dtype=torch.float64)
        match = match_labels(STUDENT, TEACHER, {"background": ["wall", "Background"], "kite": ["car", "bus"]})
        probabilities = logits.softmax(1)
        expected = torch.stack(
            [probabilities[:, 0] + probabilities[:, 1], probabilities[:, 2], probabilities[:, 3],
             probabilities[:, 4] + probabilities[:, 5]], dim=1
        )  # fmt: skip
        torch.testing.assert_close(match.student_logits(logits).softmax(1), expected)

    def test_another_number_of_classes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="logits of 5 classes, but 6 class names.*class_names"):
            match_labels(STUDENT, TEACHER).student_logits(torch.randn(2, 5, 3, 3))

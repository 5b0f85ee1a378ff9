import math

import pytest
import torch

from kaseg.distillation.losses import AdaptationLoss, AffinityLoss, HintLoss
from kaseg.distillation.map_shape import MapShape
from kaseg.distillation.terms import (
    ADAPTATION_FORMS,
    BASELINE_TERMS,
    PAPER_TERMS,
    TERM_KINDS,
    DistillationTerm,
    TermKind,
    adaptation_loss,
    build_terms,
    labels_at,
    parse_losses,
    sources_of,
)


def _build(settings: dict, student: int, teacher: int, ignore_void: bool = False) -> dict[str, DistillationTerm]:
    """Terms between a student's maps at stride 16 and a teacher's at stride 4."""
    students, teachers = MapShape(student, 16), MapShape(teacher, 4)
    names = ("features", "logits", "code")
    return build_terms(
        parse_losses(settings), dict.fromkeys(names, students), dict.fromkeys(names, teachers), ignore_void
    )


def _term(name: str, student: int = 6, teacher: int = 10, **options) -> DistillationTerm:
    ignore_void = options.pop("ignore_void", False)
    return _build({name: {"weight": 1.0, **options}}, student, teacher, ignore_void)[name]


class TestParsing:
    def test_weights_and_options_become_one_form(self) -> None:
        settings = {"hint": 2, "pairwise": {"weight": "1e1", "nodes": 4.0}, "channel_wise": {"weight": 3}}
        expected = {"hint": {"weight": 2.0}, "pairwise": {"weight": 10.0, "nodes": 4}, "channel_wise": {"weight": 3.0}}
        assert parse_losses(settings) == expected
        assert parse_losses(expected) == expected and isinstance(parse_losses(settings)["pairwise"]["nodes"], int)

    def test_a_loss_may_have_an_option_that_is_on_or_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Centered(HintLoss):
            def __init__(self, centered: bool = True) -> None:
                super().__init__()

        for kinds in (BASELINE_TERMS, TERM_KINDS):
            monkeypatch.setitem(kinds, "hint", TermKind(Centered, ("features",), "teacher"))
        settings = {"hint": {"weight": 1.0, "centered": False}}
        assert parse_losses(settings) == settings
        for value in (0, "false", None):
            with pytest.raises(ValueError, match="hint: centered must be a bool"):
                parse_losses({"hint": {"weight": 1.0, "centered": value}})

    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"chanel_wise": 1.0}, "unknown loss 'chanel_wise'.*'channel_wise'"),
            ({"nothing like it": 1.0}, "There are knowledge_distillation, hint"),
            ({"adaptation": 1.0}, "set adaptation_weight instead"),
            ({"dist": {"weight": 1.0, "gama": 2.0}}, "dist: unknown option 'gama'.*'gamma'"),
            ({"hint": {"weight": 1.0, "temperature": 2.0}}, "hint: unknown option 'temperature'"),
            ({"dist": {"beta": 1.0}}, "dist: no weight is given"),
            ({"hint": -1.0}, "hint: weight must be a number of at least 0"),
            ({"hint": math.nan}, "hint: weight must be a number of at least 0"),
            ({"hint": "much"}, "hint: weight must be a float, got 'much'"),
            ({"hint": True}, "hint: weight must be a float, got True"),
            ({"pairwise": {"weight": 1.0, "nodes": 2.5}}, "nodes must be a int"),
            ({"pairwise": {"weight": 1.0, "nodes": 1}}, "pairwise: nodes must be at least 2"),
            ({"channel_wise": {"weight": 1.0, "source": "code"}}, "channel_wise: source must be one of"),
            ({"dist": {"weight": 1.0, "images": "labelled"}}, "dist: images must be one of .*'unlabelled'"),
            ({"intra_class": {"weight": 1.0, "images": "unlabelled"}}, "intra_class leaves out what has no label"),
            ([1.0], "must map names to weights"),
            ({"x": {"loss": "chanel_wise", "weight": 1.0}}, "x: unknown loss 'chanel_wise'.*channel_wise"),
            ({"x": {"loss": 3, "weight": 1.0}}, "x: unknown loss '3'. There are"),
            ({"x": {"loss": ["hint"], "weight": 1.0}}, "x: unknown loss .*hint"),
            ({"x": {"loss": "affinity", "weight": 1.0}}, "x: affinity is one of the paper's own terms"),
            ({"adaptation": {"loss": "hint", "weight": 1.0}}, "adaptation is one of the paper's own terms"),
            ({"hint": {"loss": "dist", "weight": 1.0}}, "'hint' cannot be the name of a dist loss"),
            ({"cross_entropy": {"loss": "dist", "weight": 1.0}}, "'cross_entropy' cannot be the name"),
            ({"on.features": {"loss": "hint", "weight": 1.0}}, "'on.features' cannot be the name"),
            ({"items": {"loss": "hint", "weight": 1.0}}, "'items' cannot be the name"),
            ({"training": {"loss": "hint", "weight": 1.0}}, "'training' cannot be the name"),
            ({"x": {"loss": "hint"}}, "x: no weight is given"),
            ({"x": {"loss": "hint", "weight": 1.0, "temperature": 2.0}}, "x: unknown option 'temperature'"),
            (
                {"channel_wise": 1, "x": {"loss": "channel_wise", "weight": 2, "temperature": 4}},
                "x is the same as channel_wise but for the weight",
            ),
        ],
    )
    def test_mistakes_are_named(self, settings, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_losses(settings)

    def test_one_loss_can_be_had_twice_under_a_name_of_its_own(self) -> None:
        settings = {
            "channel_wise": 3,
            "on_features": {"loss": "channel_wise", "weight": 50, "source": "features", "temperature": 2},
        }
        parsed = parse_losses(settings)
        assert parse_losses(parsed) == parsed
        terms = _build(settings, 6, 10)
        assert [(t.name, t.source, t.weight, t.loss.temperature) for t in terms.values()] == [
            ("channel_wise", "logits", 3.0, 4.0),
            ("on_features", "features", 50.0, 2.0),
        ]
        assert terms["channel_wise"].adapter is None and terms["on_features"].adapter is not None

    def test_a_weight_of_zero_leaves_the_term_out(self) -> None:
        assert _build({"hint": 0.0}, 6, 10) == {} and sources_of(parse_losses({"hint": 0.0})) == set()


class TestAdapters:
    @pytest.mark.parametrize(
        "name", ["knowledge_distillation", "attention_transfer", "pairwise", "intra_class", "dist"]
    )
    def test_where_channels_need_not_agree_there_is_none(self, name: str) -> None:
        assert _term(name).adapter is None

    def test_a_hint_always_has_its_regressor(self) -> None:
        assert _term("hint", 6, 6).adapter.weight.shape == (6, 6, 1, 1)

    def test_channel_wise_only_where_features_differ(self) -> None:
        assert _term("channel_wise").adapter is None
        assert _term("channel_wise", 6, 6, source="features").adapter is None
        assert _term("channel_wise", 6, 10, source="features").adapter.weight.shape == (10, 6, 1, 1)


class TestGrids:
    @pytest.mark.parametrize("ignore_void", [False, True])
    @pytest.mark.parametrize("name", BASELINE_TERMS)
    def test_maps_meet(self, name: str, ignore_void: bool) -> None:
        term = _term(name, 5, 5, ignore_void=ignore_void)
        student = torch.randn(2, 5, 4, 6, requires_grad=True)
        teacher = torch.randn(2, 5, 16, 24)
        seen = []
        term.loss.register_forward_pre_hook(lambda module, args: seen.extend(tuple(a.shape[-2:]) for a in args[:2]))
        term(student, teacher, (64, 96), torch.randint(0, 3, (2, 64, 96))).backward()
        assert student.grad.any()
        kind = BASELINE_TERMS[name].grid
        expected = {"student": [(4, 6)] * 2, "teacher": [(16, 24)] * 2, "own": [(4, 6), (16, 24)]}[kind]
        assert seen == expected
        assert kind == "own" or term.grid((64, 96)) == expected[0]

    def test_a_map_that_is_off_its_stride_is_brought_to_the_grid(self) -> None:
        """A teacher's patches of 14 pixels, and a student whose encoder rounds down."""
        term = _term("knowledge_distillation", 5, 5)
        student, teacher = torch.randn(1, 5, 4, 6), torch.randn(1, 5, 5, 7)
        bring = {"mode": "bilinear", "align_corners": False}
        expected = term.loss(*(torch.nn.functional.interpolate(m, size=(17, 24), **bring) for m in (student, teacher)))
        assert term.grid((65, 96)) == (17, 24)
        assert torch.equal(term(student, teacher, (65, 96)), expected)

    def test_every_position_of_a_much_finer_teacher_counts(self) -> None:
        shapes = MapShape(5, 16), MapShape(5, 4)
        term = DistillationTerm("adaptation", PAPER_TERMS["adaptation"], 1.0, "features", HintLoss(), *shapes)
        term.adapter = None
        teacher = torch.randn(1, 5, 16, 16)
        value = term(torch.zeros(1, 5, 4, 4), teacher, (64, 64))
        means = teacher.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
        assert value.item() == pytest.approx(means.square().mean().item(), rel=1e-5)

    def test_void_is_left_out_at_the_grid_of_the_loss(self) -> None:
        labels = torch.full((1, 64, 64), 255)
        labels[:, :32] = 0
        student, teacher = torch.randn(1, 5, 4, 4), torch.randn(1, 5, 16, 16)
        term = _term("knowledge_distillation", ignore_void=True)
        expected = term(student, teacher.clone(), (64, 64), labels)
        teacher[:, :, 8:] = 100 * torch.rand(1, 5, 8, 16)
        assert torch.equal(term(student, teacher, (64, 64), labels), expected)
        assert term.count(labels) == 128 and _term("intra_class").count(labels) == 8


class TestCounts:
    """Values weighted by counts are the value of the whole, however unevenly void is spread."""

    @pytest.mark.parametrize("name", [name for name in BASELINE_TERMS if name != "dist"])
    @pytest.mark.parametrize("ignore_void", [False, True])
    def test_parts_make_the_whole(self, name: str, ignore_void: bool) -> None:
        torch.manual_seed(0)
        term = _term(name, 5, 5, ignore_void=ignore_void)
        student, teacher = torch.randn(3, 5, 1, 2), torch.randn(3, 5, 4, 6)
        labels = torch.randint(0, 3, (3, 16, 24))
        labels[0, :11], labels[1, 5:], labels[2, :, :3] = 255, 255, 255
        whole = term(student, teacher, (16, 24), labels)
        total, number = 0.0, 0
        for part in (slice(0, 1), slice(1, 3)):
            count = term.count(labels[part])
            total = total + count * term(student[part], teacher[part], (16, 24), labels[part])
            number = number + count
        assert (total / number).item() == pytest.approx(whole.item(), rel=1e-5)
        assert number == term.count(labels)


class TestUnlabelledImages:
    @pytest.mark.parametrize("name", [name for name in BASELINE_TERMS if name != "intra_class"])
    def test_only_images_without_any_label_are_compared(self, name: str) -> None:
        torch.manual_seed(0)
        term, of_all = _term(name, 5, 5, images="unlabelled"), _term(name, 5, 5)
        of_all.load_state_dict(term.state_dict())
        student, teacher = torch.randn(4, 5, 4, 6, requires_grad=True), torch.randn(4, 5, 16, 24)
        labels = torch.full((4, 64, 96), 255)
        labels[1, 7, 5], labels[3] = 0, 2  # one pixel is a mask, too
        value = term(student, teacher, (64, 96), labels)
        expected = of_all(student[[0, 2]], teacher[[0, 2]], (64, 96), labels[[0, 2]])
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        assert term.count(labels) == of_all.count(labels[[0, 2]]) and term.needs_labels
        (gradient,) = torch.autograd.grad(value, student)
        assert not gradient[[1, 3]].any() and all(gradient[i].any() for i in (0, 2))

    def test_a_batch_without_such_images_has_no_loss(self) -> None:
        term = _term("knowledge_distillation", images="unlabelled")
        student = torch.full((2, 5, 4, 6), 1e38, requires_grad=True)  # whose sum is not finite
        labels = torch.zeros(2, 64, 96, dtype=torch.long)
        value = term(student, torch.randn(2, 5, 16, 24), (64, 96), labels)
        value.backward()
        assert value.item() == 0 and not student.grad.any() and term.count(labels) == 0


class TestClassWeights:
    @pytest.mark.parametrize("ignore_void", [False, True])
    def test_positions_are_weighed_by_their_labels(self, ignore_void: bool) -> None:
        weights = (0.5, 4.0)
        shapes = MapShape(5, 4), MapShape(7, 4)
        term = DistillationTerm(
            "adaptation", PAPER_TERMS["adaptation"], 1.0, "code", AdaptationLoss(), *shapes, ignore_void, weights
        )
        student, teacher = torch.randn(3, 5, 4, 6), torch.randn(3, 7, 4, 6).relu()
        labels = torch.randint(0, 2, (3, 16, 24))
        labels[0, :11], labels[1, 5:], labels[2, :, :3] = 255, 255, 255
        at_grid = labels[:, 2::4, 2::4]
        of_positions = torch.where(at_grid == 255, 0.0 if ignore_void else 1.0, torch.tensor(weights)[at_grid % 255])
        adapted = term.eval().adapter(student)
        apart = torch.nn.functional.normalize(adapted, dim=1) - torch.nn.functional.normalize(teacher, dim=1)
        expected = (apart.abs().mean(1) * of_positions).sum() / of_positions.sum()
        value = term(student, teacher, (16, 24), labels)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert term.count(labels).item() == pytest.approx(of_positions.sum().item())

    def test_losses_that_take_no_weights_go_without(self) -> None:
        shapes = MapShape(5, 4), MapShape(7, 4)
        term = DistillationTerm(
            "affinity", PAPER_TERMS["affinity"], 1.0, "code", AffinityLoss(), *shapes, False, (0.5, 4.0)
        )
        assert term.label_weights is None and not term.needs_labels


class TestAdaptationForms:
    @pytest.mark.parametrize("form", ADAPTATION_FORMS)
    @pytest.mark.parametrize("channels", [(6, 10), (10, 6), (6, 6)])
    def test_the_student_is_carried_to_the_code_and_taught(self, form: str, channels: tuple[int, int]) -> None:
        shapes = MapShape(channels[0], 16), MapShape(channels[1], 16)
        settings = {"adaptation": {"loss": adaptation_loss(form), "weight": 1.0, "source": "code"}}
        term = build_terms(settings, {"features": shapes[0]}, {"code": shapes[1]})["adaptation"]
        assert term.kind is ADAPTATION_FORMS[form] and type(term.loss) is term.kind.loss
        student = torch.randn(2, channels[0], 4, 6, requires_grad=True)
        value = term(student, torch.randn(2, channels[1], 4, 6).relu(), (64, 96))
        value.backward()
        assert student.grad.any()
        assert all(parameter.grad.any() for parameter in term.parameters())

    def test_the_papers_is_the_first_and_unchanged(self) -> None:
        assert next(iter(ADAPTATION_FORMS)) == "position" and ADAPTATION_FORMS["position"] is PAPER_TERMS["adaptation"]


def test_labels_are_those_of_the_middle_of_a_position() -> None:
    labels = torch.arange(64).view(1, 8, 8)
    assert torch.equal(labels_at(labels, (2, 2)), torch.tensor([[[18, 22], [50, 54]]]))

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kaseg.distillation.losses import AffinityLoss

EPS = 1e-4
# (channels, height, width): above and below the limit of 3 positions per channel, where the two forms take over.
LINEAR, PLAIN = (3, 4, 5), (9, 4, 5)


def reference(student, teacher, mask=None, squared_rows=False):
    """The formula of the docstring with both affinity matrices written out, in float64."""
    losses = []
    for b in range(len(student)):
        affinities = []
        for features in (student, teacher):
            rows = features[b].detach().double().flatten(1).numpy().T
            if mask is not None:
                rows = rows[mask[b].flatten().numpy()]
            unit = rows / np.sqrt((rows**2).sum(1, keepdims=True) + EPS**2)
            affinities.append(unit @ unit.T / max(len(unit), 1))
        squares = ((affinities[0] - affinities[1]) ** 2).sum(1)
        losses.append(squares.sum() if squared_rows else np.sqrt(squares).sum())
    return np.mean(losses)


def naive(student, teacher):
    """The m x m loss as one would write it in torch, in the type of its input; the yardstick for float32 errors."""
    difference = 0
    for features, sign in ((student, 1), (teacher, -1)):
        unit = (features * torch.rsqrt(features.square().sum(1, keepdim=True) + EPS**2)).flatten(2)
        difference = difference + sign * torch.bmm(unit.mT, unit)
    return torch.linalg.vector_norm(difference / difference.shape[1], dim=2).sum(1).mean()


def random_mask(batch, height, width):
    return torch.rand(batch, height, width, generator=torch.Generator().manual_seed(1)) > 0.4


def value_and_gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach().double(), gradient.double()


@pytest.mark.parametrize("shape", [LINEAR, PLAIN])
@pytest.mark.parametrize("squared_rows", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_matches_the_formula(pair, shape, squared_rows, masked):
    student, teacher = pair(3, *shape)
    teacher = teacher.relu()
    mask = random_mask(3, *shape[1:]) if masked else None
    expected = reference(student, teacher, mask, squared_rows)
    loss = AffinityLoss(squared_rows=squared_rows)
    assert loss(student, teacher, mask).item() == pytest.approx(expected, rel=1e-5)
    in_double = loss(student.double(), teacher.double(), mask)
    assert in_double.dtype == torch.float64
    assert in_double.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("shape", [LINEAR, PLAIN])
@pytest.mark.parametrize("squared_rows", [False, True])
def test_gradcheck_on_both_sides(pair, shape, squared_rows):
    student, teacher = (x.requires_grad_() for x in pair(2, *shape, dtype=torch.float64))
    mask = random_mask(2, *shape[1:])
    loss = AffinityLoss(squared_rows=squared_rows)
    assert torch.autograd.gradcheck(loss, (student, teacher), fast_mode=True)
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, mask), (student, teacher), fast_mode=True)
    assert torch.autograd.gradcheck(lambda t: loss(student.detach(), t), (teacher,), fast_mode=True)


def cases():
    for kind in ("normal", "relu"):
        yield kind, None
        for noise in (1e-3, 1e-4, 1e-5, 1e-6):
            yield kind, noise
        yield kind, 0.0
    yield "dead", None


@pytest.mark.parametrize("shape", [(16, 24, 24), (128, 16, 16)], ids=["linear", "plain"])
@pytest.mark.parametrize(("kind", "noise"), list(cases()))
def test_float32_errors_are_no_worse_than_those_of_the_naive_loss(pair, shape, kind, noise):
    student, teacher = pair(2, *shape)
    if kind != "normal":
        student, teacher = student.relu(), teacher.relu()
    if kind == "dead":
        student[:, :, ::3], teacher[:, :, :, ::4] = 0, 0
    if noise is not None:
        student = teacher + noise * student
    exact_value, exact_gradient = value_and_gradient(naive, student.double(), teacher.double())
    errors = []
    for loss in (naive, AffinityLoss()):
        value, gradient = value_and_gradient(loss, student, teacher)
        errors.append(((value - exact_value).abs(), (gradient - exact_gradient).norm()))
    (naive_value, naive_gradient), (our_value, our_gradient) = errors
    # Two units in the last place of the float32 result are granted: the naive one may be right by luck.
    assert our_value <= 2 * naive_value + 2.4e-7 * exact_value
    assert our_gradient <= 2 * naive_gradient


@pytest.mark.parametrize("shape", [(16, 24, 24), (128, 16, 16)], ids=["linear", "plain"])
def test_nearly_equal_inputs_keep_full_precision(pair, shape):
    student, teacher = pair(1, *shape)
    student = teacher + 1e-6 * student
    exact_value, exact_gradient = value_and_gradient(naive, student.double(), teacher.double())
    value, gradient = value_and_gradient(AffinityLoss(), student, teacher)
    assert (value - exact_value).abs() <= 1e-6 * exact_value
    assert (gradient - exact_gradient).norm() <= 3e-6 * exact_gradient.norm()


@pytest.mark.parametrize("shape", [LINEAR, PLAIN])
@pytest.mark.parametrize("squared_rows", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equal_inputs_give_exactly_zero(pair, shape, squared_rows, masked):
    student, other = pair(2, *shape)
    teacher = student.clone()
    teacher[1] = other[1]  # the second image differs and must not disturb the first
    mask = random_mask(2, *shape[1:]) if masked else None
    for first, second in ((student, teacher), (teacher, student)):
        leaf = first.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(AffinityLoss(squared_rows=squared_rows)(leaf, second, mask), leaf)
        assert not gradient[0].any()
        assert gradient[1].isfinite().all()
        assert gradient[1].any()
    assert AffinityLoss(squared_rows=squared_rows)(student, student.clone(), mask).item() == 0


@pytest.mark.parametrize("shape", [LINEAR, PLAIN])
def test_invariances(pair, shape, rotation):
    channels, height, width = shape
    generator = torch.Generator().manual_seed(2)
    student, teacher = pair(2, *shape)
    loss = AffinityLoss()
    expected = pytest.approx(loss(student, teacher).item(), rel=1e-5)
    assert loss(rotation(channels, student), teacher).item() == expected
    assert loss(student, rotation(channels, teacher)).item() == expected
    order = torch.randperm(height * width, generator=generator)
    moved = [x.flatten(2)[..., order].unflatten(2, (height, width)) for x in (student, teacher)]
    assert loss(*moved).item() == expected
    lengths = 0.5 + 10 * torch.rand(2, 1, height, width, generator=generator)
    assert loss(student * lengths, teacher / lengths).item() == expected
    assert loss(moved[0], teacher).item() != expected


# In the linear form each row's length is rounding noise here and its gradient must be damped: were the noise divided
# by, some positions would get 0.4 times the gradient of unrelated maps. The plain matrix needs no damping.
@pytest.mark.parametrize(("shape", "limit"), [((16, 64, 64), 0.05), ((128, 16, 16), 4.0)], ids=["linear", "plain"])
def test_rotated_copy_is_small_and_its_gradient_bounded(pair, shape, limit, rotation):
    teacher, other = pair(1, *shape)
    value, gradient = value_and_gradient(AffinityLoss(), rotation(shape[0], teacher), teacher)
    other_value, other_gradient = value_and_gradient(AffinityLoss(), other, teacher)
    assert value < 1e-3 * other_value
    assert gradient.norm(dim=1).max() < limit * other_gradient.norm(dim=1).max()


@pytest.mark.parametrize("shape", [LINEAR, PLAIN])
def test_gradient_is_bounded_at_zero_vectors(pair, shape):
    student, teacher = pair(2, *shape)
    for scale in (0.0, 1e-12, 1e-6):
        dead = student.clone()
        dead[:, :, 0] *= scale
        dead.requires_grad_()
        AffinityLoss()(dead, teacher).backward()
        # With rows W_ij = r_ij / n_i of length 1, dL/ds_a is a sum of W_aj s_j (length at most sqrt(m)) and of W_ia s_i
        # (at most m), over m and the batch of 2; a unit vector moves by at most 1 / EPS of what its feature does.
        positions = shape[1] * shape[2]
        assert dead.grad.norm(dim=1).max() <= (positions**0.5 + positions) / positions / 2 / EPS
    zero = torch.zeros(2, *shape, requires_grad=True)
    loss = AffinityLoss()(zero, torch.zeros(2, *shape))
    loss.backward()
    assert loss.item() == 0
    assert not zero.grad.any()


class Allocations(TorchDispatchMode):
    """Notes the number of elements of the largest tensor any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_square_matrix_is_allocated(pair):
    student, teacher = pair(1, 16, 129, 129)
    student.requires_grad_()
    sizes: list[int] = []
    with (
        Allocations() as seen,
        torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x),
    ):
        AffinityLoss()(student, teacher).backward()
    assert seen.largest == student.numel()
    assert max(sizes) <= student.numel()
    assert sum(sizes) <= 8 * student.numel()
    small_student, small_teacher = pair(1, 2, 5, 6)
    with Allocations() as seen:
        naive(small_student, small_teacher)
    assert seen.largest == 30**2  # that the instrument sees a square matrix where there is one


def test_second_derivative_is_refused_rather_than_wrong(pair):
    student, teacher = pair(1, *LINEAR)
    student.requires_grad_()
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(AffinityLoss()(student, teacher), student, create_graph=True)

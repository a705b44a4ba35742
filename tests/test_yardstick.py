"The primary score orders what is known to be worse, says how sure it is, and is found wherever scores are asked for."

import pytest
import torch

from hsr_nb.data import Digits
from hsr_nb.data.synthfaces.degrade import FAULTS, degraded
from hsr_nb.judges.maps import YARDSTICK, MapsDetector
from hsr_nb.metrics.coverage import squared_distances
from hsr_nb.metrics.fidelity import mmd2
from hsr_nb.metrics.yardstick import KernelSums, in_units_of_reals, jackknife, nearest, yardstick
from hsr_nb.studies.yardstick import PAIRS, SUBJECTS, FrechetOfGroups, margin, verdicts

KEY = f"yardstick[{YARDSTICK}]"
SUBTLE = ("half the people", "smile frozen", "yaw frozen")  # not seen among a few hundred faces; the study sees them


@pytest.fixture(scope="module")
def maps():
    return MapsDetector()


def look(maps, fault, n, seed):
    return maps(degraded(fault, n, seed))


@pytest.fixture(scope="module")
def real(maps):
    return look(maps, None, 600, 0)


@pytest.mark.parametrize("seed", (1000, 1001))
def test_it_orders_faces_with_faults(maps, real, seed):
    def sums(fault):
        return KernelSums(*in_units_of_reals(real, look(maps, fault, 300, seed), maps.blocks))

    unspoilt = sums(None)
    found = {f: sums(f) for f in ("blurred 1.5x", "blurred 2x", "blurred 4x", "halos", "20 faces", "glasses frozen")}
    for fault, worse in found.items():
        measured = margin(unspoilt, worse)
        assert measured["margin"] > 0 and measured["sigmas"] > 2, fault
    blurs = [found[f"blurred {factor}x"].distance() for factor in ("1.5", "2", "4")]
    assert blurs == sorted(blurs)


def test_it_is_the_kernel_distance(real):
    blocks = (real.shape[1] - 360, 360)
    other = real[300:] * 1.1
    one, two = in_units_of_reals(real[:300], other, blocks)
    found = yardstick(real[:300], other, "toy")["yardstick[toy]"]
    whole = mmd2(*(x.double() for x in in_units_of_reals(real[:300], other, (real.shape[1],))))
    assert found == pytest.approx(whole, abs=1e-6)
    assert KernelSums(one, two).distance() == pytest.approx(mmd2(one.double(), two.double()), abs=1e-6)


def test_leaving_out_is_the_distance_of_the_rest():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(103, 5, generator=g), torch.randn(97, 5, generator=g) + 0.5
    kept = torch.tensor([0, 2, 3, 7])
    parts = [torch.cat([v.tensor_split(10)[i] for i in kept]) for v in (x, y)]
    found = KernelSums(x, y).distance(kept)
    assert found == pytest.approx(mmd2(*(p.double() for p in parts)), abs=1e-6)
    without = FrechetOfGroups(x, y).distance(kept)
    assert without == pytest.approx(FrechetOfGroups(*parts, groups=1).distance(torch.tensor([0])), rel=1e-9)


def test_the_standard_error_is_that_of_repeated_draws():
    g = torch.Generator().manual_seed(0)
    found = [
        yardstick(torch.randn(300, 6, generator=g), torch.randn(300, 6, generator=g) + 0.4, "x") for _ in range(40)
    ]
    values = torch.tensor([row["yardstick[x]"] for row in found])
    errors = torch.tensor([row["yardstick_se[x]"] for row in found])
    assert 0.6 < errors.mean() / values.std() < 1.6
    assert jackknife(torch.ones(10)) == 0


def test_right_on_average_at_any_number():
    g = torch.Generator().manual_seed(0)
    nothing = [yardstick(*torch.randn(2, 40, 6, generator=g), "x")["yardstick[x]"] for _ in range(100)]
    mean, spread = torch.tensor(nothing).mean(), torch.tensor(nothing).std()
    # the unit is that of 40 reals, whose spread is a little too small, hence not quite zero
    assert abs(mean) < 5 * spread / 10 and min(nothing) < 0 < max(nothing)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda x: x[:19], "at least 20"),
        (lambda x: x[:, :-1], "cannot be compared"),
        (lambda x: x * float("nan"), "not finite"),
    ],
)
def test_what_cannot_be_measured(change, says):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=says):
        yardstick(x, change(x), "toy")


def test_a_detector_of_several_judges(maps):
    grey = Digits().images(range(3))
    assert maps(grey).shape == (3, maps.num_features) and maps.name == YARDSTICK
    with pytest.raises(ValueError, match="uint8"):
        maps(grey.float())
    with pytest.raises(ValueError, match="no maps"):
        MapsDetector("synthfaces-tiny")


def test_nearest_is_nearest():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=g), torch.randn(50, 4, generator=g)
    plain = (x[:, None] - y[None]).norm(dim=2).amin(1)
    assert torch.allclose(nearest(x, y, block=7).float(), plain, atol=1e-5)
    assert squared_distances(x.double(), y.double()).shape == (30, 50)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_change_what_they_say(fault):
    plain, spoilt = degraded(None, 6, 3), degraded(fault, 6, 3)
    assert spoilt.shape == plain.shape and spoilt.dtype == torch.uint8 and not torch.equal(plain, spoilt)
    assert torch.equal(spoilt, degraded(fault, 6, 3))


def test_unknown_fault():
    with pytest.raises(ValueError, match="'soup'"):
        degraded("soup", 2)


def test_pairs_and_verdicts():
    assert {subject for pair in PAIRS for subject in pair} == set(SUBJECTS) and set(SUBTLE) < set(SUBJECTS)
    rows = [
        {"seed": seed, "better": "a", "worse": worse, "score": score, "margin": m, "sigmas": m, "sigmas_few": m / 2}
        for score, margins in (("liar", {"b": 9.0, "c": -1.0}), ("honest", {"b": 3.0, "c": 2.5}))
        for worse, m in margins.items()
        for seed in (0, 1)
    ]
    honest, liar = verdicts(rows)
    assert (honest["score"], honest["in order"], honest["least sigmas"]) == ("honest", 4, 2.5)
    assert (liar["in order"], liar["by more than 2 sigmas"]) == (2, 2) and liar["weakest"].startswith("a > c")

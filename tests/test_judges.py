"""The judges that ship: two of each, each at the sizes that its card names, and what they cannot read is left out."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from hsr_nb.base.whole import sha256
from hsr_nb.data import FACTOR_NAMES, SynthFaces
from hsr_nb.explore.readings import title
from hsr_nb.explore.session import Session
from hsr_nb.judges import load_bank, load_detector, load_identity, read_card
from hsr_nb.judges.cards import embedded, save_embedded, weights_dir
from hsr_nb.judges.detectors import ARCHITECTURES, AttributeNet, build_regressor
from hsr_nb.judges.pairs import PAIRS, reporting_judge, require_reporting, working_judge
from hsr_nb.judges.sizes import LEAST_R2, conditions, explained, least_r2
from hsr_nb.nets import Generator
from hsr_nb.studies import EvalConfig, evaluate_run

ATTRIBUTES, IDENTITIES = PAIRS["attributes"], PAIRS["identity"]
NINE = FACTOR_NAMES[:9]
OTHERS = ("skin_tone", "hair_hue", "grey", "background", "light")


def ground_truth(n=400, seed=17):
    faces = SynthFaces(64, n, seed=seed)
    return faces.images(range(n)), faces.factors(range(n))[:, :14]


@pytest.fixture(scope="module")
def crowd():
    return ground_truth()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_regressor_keeps_its_word_under_all_four_conditions(name, crowd):
    "What the card says of thousands of faces holds, within the chance of 400, for others."
    pictures, truth = crowd
    judge = load_detector(name)
    assert set(judge.attribute_names) == {*NINE, *OTHERS}
    for condition, seen in conditions(pictures).items():
        found = explained(judge.attributes(seen), truth)
        promised = [judge.card["scores"]["r2"][condition][n] for n in judge.attribute_names]
        assert (found - torch.tensor(promised)).abs().max() < 0.1, condition


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_regressor_reads_all_but_grey_hair_at_both_sizes(name):
    "Grey hair of the bald cannot be seen; so it has no title and no score."
    worst = least_r2(read_card(name))
    assert set(worst) == {32, 64}
    for table in worst.values():
        assert set(table) == {*NINE, *OTHERS}
        assert {n for n, r in table.items() if r < LEAST_R2} <= {"grey"}, table
    assert set(load_bank(name).reliable().attribute_names) >= {*NINE, *OTHERS} - {"grey"}


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_encoder_tells_people_apart_under_all_four_conditions(name):
    scores = read_card(name)["scores"]["verification"]
    for condition in ("64", "32", "64 blurred", "32 blurred"):
        assert scores[condition]["strangers"]["auc"] > 0.97, condition
        assert scores[condition]["alike"]["auc"] > scores["pixels16, centred"]["alike"]["auc"] + 0.15, condition


@pytest.mark.parametrize("kind", PAIRS)
def test_the_two_of_a_pair_share_neither_build_nor_seed_nor_faces(kind):
    first, second = (read_card(name) for name in PAIRS[kind])
    assert first["architecture"]["class"] != second["architecture"]["class"]
    assert first["training"]["seed"] != second["training"]["seed"]
    if kind == "attributes":
        seeds = [{d["seed"] for d in card["data"]["train"] + card["data"]["heldout"]} for card in (first, second)]
    else:
        seeds = [{c["data"]["train"]["seed"], *c["data"]["heldout"]["seeds"]} for c in (first, second)]
    assert seeds[0].isdisjoint(seeds[1])


def test_every_shipped_network_that_looks_says_where_it_holds():
    for name in embedded():
        card = read_card(name)
        if card["role"] in ("judge", "identity", "teacher"):
            assert card["holds"]["sides"] == [32, 64] and card["data"]["train"], name
            assert card["sha256"] == sha256(weights_dir() / f"{name}.safetensors")
    files = [weights_dir() / f"{reporting_judge(kind)}.safetensors" for kind in PAIRS]
    assert sum(f.stat().st_size for f in files) < 1.35e6


# ---- sizes


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_sizes_that_a_judge_does_not_hold_for(name, crowd):
    pictures, truth = crowd
    judge = load_detector(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the sizes of its card need no word
        near = judge.attributes(pictures[:8])
        judge(F.avg_pool2d(pictures[:8].float(), 2).byte())
    large = pictures[:8].repeat_interleave(2, 2).repeat_interleave(2, 3)
    with pytest.warns(
        UserWarning, match=f"{name} holds for pictures of 32 and 64 pixels a side, found 128 x 128: they"
    ):
        assert torch.allclose(judge.attributes(large), near, atol=1e-4)
    small = pictures[:8, :, ::4, ::4]
    with pytest.raises(ValueError, match="found 16 x 16: nothing is read off smaller ones"):
        judge.attributes(small)
    with pytest.warns(UserWarning, match="found 16 x 16: distances in its features say little there"):
        assert judge(small).shape == (8, judge.num_features)


def test_an_encoder_refuses_small_pictures():
    with pytest.raises(ValueError, match="synthfaces-identity holds for pictures of 32 and 64 pixels a side, found 16"):
        load_identity()(torch.zeros(1, 3, 16, 16))


# ---- the rule of 0.8


@pytest.fixture
def short_sighted(tmp_path):
    "A judge whose card says that it reads ages badly at 32 pixels, and smiles off blurred faces."
    torch.manual_seed(0)
    table = {name: {"age": 0.9, "smile": 0.9, "yaw": 0.9} for name in ("64", "64 blurred", "32", "32 blurred")}
    table["32"]["age"] = 0.79
    table["64 blurred"]["smile"] = table["32 blurred"]["smile"] = 0.5
    card = {
        "attributes": ["age", "smile", "yaw"],
        "input": {"size": [64, 64], "mean": [0.5] * 3, "std": [0.5] * 3},
        "architecture": {"kwargs": {"widths": [4, 8], "attributes": 3}},
        "holds": {"sides": [32, 64], "measure": "r2"},
        "scores": {"r2": table},
    }
    return save_embedded("short-sighted", AttributeNet((4, 8), 3).state_dict(), card, tmp_path)


def test_what_is_read_badly_has_no_place_in_a_bank(short_sighted):
    bank = load_bank(short_sighted)
    for side, left in ((64, ("age", "yaw")), (256, ("age", "yaw")), (32, ("yaw",)), (None, ("yaw",))):
        kept = bank.reliable(side=side)
        assert kept.attribute_names == left
        assert set(kept.left_out) == {"age", "smile", "yaw"} - set(left) and kept.left_out["smile"] == 0.5


def small_generator(side):
    torch.manual_seed(1)
    width = dict(channel_base=256, channel_max=8)
    return Generator(8, 0, 8, side, 3, mapping_kwargs=dict(num_layers=1), synthesis_kwargs=width).eval()


def test_what_is_read_badly_gives_no_slider_its_title(short_sighted, monkeypatch):
    monkeypatch.setattr("hsr_nb.explore.readings.LEAST_CHANGE", 0.0)  # however little is changed
    how = dict(judge=str(short_sighted), device="cpu", components=4, samples=100)
    session = Session("synthfaces-baseline", **how)
    assert session.judge.attribute_names == ("yaw",)
    titles = [title(session, f"pca {k}") for k in range(1, 5)]
    assert {said.split()[0] for said in titles if said} == {"yaw"}
    with pytest.warns(UserWarning, match="short-sighted reads nothing off pictures of less than 32 pixels"):
        assert Session(small_generator(16), **how).judge is None


def test_what_is_read_badly_is_not_scored(short_sighted, tmp_path):
    ask = EvalConfig("synthfaces-hsr", str(tmp_path), scores=("als",), paths=3, frames=3, bank=str(short_sighted))
    report, _ = evaluate_run(ask)
    assert report["bank"]["left_out"] == {"age": 0.79, "smile": 0.5}
    assert set(report["scores"]["als_by_attribute[short-sighted]"]) == {"yaw"}


# ---- who reports


def test_the_first_judge_reports_no_number(tmp_path):
    assert EvalConfig("x").bank == reporting_judge("attributes")
    first = weights_dir() / f"{working_judge('attributes')}.safetensors"
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(first.read_bytes())
    copy.with_suffix(".json").write_text(json.dumps(read_card(first.stem) | {"name": "renamed"}))
    for bank in (first.stem, str(first), str(copy)):
        ask = EvalConfig("synthfaces-hsr", str(tmp_path), scores=("als",), paths=3, frames=3, bank=bank)
        with pytest.raises(ValueError, match="reports no number: expected synthfaces-attributes-b \\(--bank\\)"):
            evaluate_run(ask)
    require_reporting(SimpleNamespace(**read_card(reporting_judge("identity"))))


def test_a_card_builds_what_it_names_and_nothing_else():
    for name in ATTRIBUTES:
        card = read_card(name)
        assert isinstance(build_regressor(card), ARCHITECTURES[card["architecture"]["class"]])
    with pytest.raises(ValueError, match="names the network 'os.system'"):
        build_regressor({"architecture": {"class": "os.system", "kwargs": {}}})


def test_a_detector_comes_from_a_file_with_its_card(short_sighted):
    judge = load_detector(str(short_sighted))
    assert (judge.name, judge.sha256) == ("short-sighted", sha256(short_sighted))
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        load_detector(str(Path(short_sighted).with_name("nowhere.safetensors")))
    short_sighted.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="needs its card beside it"):
        load_detector(str(short_sighted))

"""Figures of anybody's networks: what judges cannot know is left out, with a reason, and nothing stays behind."""

import json

import pytest
import torch

from hsr_nb.nets import Generator
from hsr_nb.studies.edit_figures import Wishes, draw_edit_figures
from hsr_nb.studies.face_figures import draw_face_figures
from hsr_nb.studies.figure_files import Drawn, LeftOut, save_figures
from hsr_nb.studies.figure_pair import Pair, load_judges, open_pair, why_unread

JUDGES = ("synthfaces-attributes", "synthfaces-attributes-b", "synthfaces-attributes-b")


def network(seed, resolution=16, channels=3, **synthesis):
    "An untrained network of another kind than those that ship."
    torch.manual_seed(seed)
    about = {"channel_base": 256, "channel_max": 16, "num_fp16_res": 0} | synthesis
    return Generator(24, 0, 20, resolution, channels, {"num_layers": 3}, about).eval().requires_grad_(False)


def reasons(made):
    return {figure.name: figure.why for figure in made if isinstance(figure, LeftOut)}


def names(made):
    return [figure.name for figure in made if isinstance(figure, Drawn)]


def test_networks_of_unknown_pictures_are_shown_and_not_judged(tmp_path):
    "Another resolution, widths, mapping and number of colours; nothing says what they were trained on."
    pair = Pair({"baseline": network(0, channels=1), "HSR": network(1, 32, 1, use_noise=False)})
    judges = load_judges(pair, *JUDGES)
    made = [*draw_face_figures(pair, judges), *draw_edit_figures(pair, judges)]
    assert names(made) == ["interpolation"]
    why = reasons(made)
    for name in ("idea", "same-latents", "attribute-curve", "z-and-w", "many-steps", "watched-age", "by-methods"):
        assert (
            "knows the drawn faces of SynthFaces alone, and baseline does not say what it was trained on" in why[name]
        )
    assert why["chance"] == "HSR draws no noise: nothing in its pictures is left to chance"
    said = []
    files = save_figures(made, tmp_path, said.append)
    assert [file.name for file in files] == ["interpolation.webp"] and len(said) == len(why)
    about = json.loads((tmp_path / "figures.json").read_text())
    assert about["idea"] == {"left out": why["idea"]} and set(about["interpolation"]["sources"]) == set(pair.sources)


def test_an_owner_s_word_makes_a_judge_speak_where_it_can_read():
    "Drawn faces at 32 pixels are read, at 16 they are not."
    faces = Pair({"baseline": network(0, 32), "HSR": network(1, 32)}, data="synthfaces")
    judges = load_judges(faces, *JUDGES)
    assert not judges.unread and judges.why_not(["gender"]) is None
    made = list(draw_face_figures(faces, judges, latents=64, renderings=50))
    assert names(made) == ["idea", "same-latents", "interpolation", "chance", "attribute-curve", "z-and-w"]
    small = Pair({"baseline": network(0), "HSR": network(1)}, data="synthfaces")
    assert (
        "reads pictures from 32 pixels a side on, and baseline draws 16" in load_judges(small, *JUDGES).unread["reader"]
    )


def test_who_finds_does_not_report_and_who_taught_does_not_judge():
    pair = open_pair("synthfaces-baseline", "synthfaces-hsr")
    alone = load_judges(pair, "synthfaces-attributes-b", "synthfaces-attributes-b", "synthfaces-attributes")
    assert "another judge has to report" in alone.unread["reader"]
    assert "reports no number" in alone.unread["detector"] and "finder" not in alone.unread
    made = list(draw_edit_figures(pair, alone, Wishes("yaw", {"yaw": ("light",)}), latents=200))
    assert names(made) == ["many-steps"]  # directions can be shown; what became of them, nobody may say
    assert "another judge has to report" in reasons(made)["watched-yaw"]


def test_a_judge_of_photographs_reads_no_drawings():
    from hsr_nb.judges.faceapi import FACE_API

    class Photographs:
        name, sha256 = "face-api", FACE_API.sha256

    pair = Pair({"baseline": network(0), "HSR": network(1)})
    assert why_unread(Photographs, pair) is None
    assert "reads photographs of faces" in why_unread(Photographs, Pair(pair.networks, data="synthfaces"))


def test_an_attribute_that_a_judge_does_not_read_is_named():
    pair = open_pair("synthfaces-baseline", "synthfaces-hsr")
    judges = load_judges(pair, *JUDGES)
    why = reasons(draw_face_figures(pair, judges, "male", 64, 50))
    assert why["attribute-curve"].startswith("synthfaces-attributes-b reads no male here; it reads gender")


def test_networks_of_classes_are_refused():
    with pytest.raises(ValueError, match="without labels"):
        import hsr_nb.studies.figure_pair as figure_pair

        conditional = Generator(8, 3, 8, 16, 3, {"num_layers": 1}, {"channel_base": 64, "channel_max": 8})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(figure_pair, "open_network", lambda network: (conditional, {}, network))
            open_pair("one", "two")


def test_a_figure_that_can_no_longer_be_drawn_takes_its_file_along(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    save_figures([Drawn("a", figure, {"s": "0"}), Drawn("b", figure, {"s": "0"})], tmp_path)
    save_figures([LeftOut("a", "gone")], tmp_path, str)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["b.svg", "figures.json"]
    save_figures([Drawn("b", figure, {"s": "1"}, raster=True)], tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["b.webp", "figures.json"]

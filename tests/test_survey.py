"""The survey's arithmetic, files and command line: every printed digit, and what must not be found out."""

import io
import json
import os
import re
import sqlite3
import stat
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from scipy.stats import binom, kstest
from support.survey import TWO, small_survey

from hsr_nb.base.errors import DataError
from hsr_nb.data import SynthFaces
from hsr_nb.survey import Plan, Rules, analyse, build_survey, load_survey
from hsr_nb.survey import statistics as st
from hsr_nb.survey.analysis import analyse_panel, comparison_rows, read_answers, summary_lines
from hsr_nb.survey.build import Item, _named
from hsr_nb.survey.command import main
from hsr_nb.survey.details import (
    assuming_independence,
    kr20,
    per_item,
    per_session,
    reliability,
    signal_detection,
    timing,
)
from hsr_nb.survey.figures import all_figures
from hsr_nb.survey.folder import answers_file, key_file, licence_of
from hsr_nb.survey.panel import simulated_records, tabulate
from hsr_nb.survey.rates import (
    _draws,
    _rates,
    bootstrap,
    compare_generators,
    holm,
    key_test,
    mixed_model,
    rates,
    session_test,
)
from hsr_nb.survey.records import (
    FIELDS,
    SIMULATED,
    _toy_key,
    anonymise,
    item_order,
    parse_lines,
    record_fault,
    to_lines,
)
from hsr_nb.survey.separability import auc
from hsr_nb.survey.store import TABLES, Store, _hashed, withdraw
from hsr_nb.survey.words import load_words

for package in ("starlette", "uvicorn", "statsmodels", "scipy", "tyro"):
    pytest.importorskip(package, reason=f'the survey needs {package}: pip install "hsr_nb[survey]"')

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "data/survey"
KEY = _toy_key()


def crowd(*says, key=KEY, rt_ms=900):
    "A panel of sessions, each given by what it says of a picture."
    records = []
    for number, say in enumerate(says, 1):
        session = f"{number:032x}"
        for pos, item in enumerate(item_order(key, session)):
            values = (1, session, item, pos, "fake" if say(item) else "real", rt_ms, None, False, "2025-01-31")
            records.append(dict(zip(FIELDS, values, strict=True)))
    return tabulate(records, key)


# ---- the published study, digit by digit


def published():
    tables = json.loads((ROOT / "data/paper/targets.json").read_text(encoding="utf-8"))["tables"]
    return next(t for t in tables if t["id"] == "survey_scores")


def test_published_numbers_are_those_of_the_targets():
    table = published()
    assert st.PUBLISHED == table["rows"][0]["values"]
    d, ours = table["derived"], st.published_summary()
    assert (ours["correct"], ours["judgements"]) == (d["total_correct"], d["total_judgements"]) == (1100, 1960)
    assert round(ours["accuracy"], 6) == d["accuracy"] and round(ours["error"], 6) == d["error_rate"]
    assert [round(x, 6) for x in ours["intervals"]["wilson"]] == d["wilson95"]
    assert [round(x, 6) for x in ours["intervals"]["clopper_pearson"]] == d["clopper_pearson95"]
    assert float(f"{ours['pooled']['p']:.3e}") == d["binomial_two_sided_p_assuming_independence"]


def test_what_follows_arithmetically():
    s = st.published_summary()
    assert st.totals_of_mean(22.45, 49) == [1100]
    assert (round(1099 / 49, 2), round(1101 / 49, 2)) == (22.43, 22.47)
    assert f"{s['accuracy']:.5f} {s['error']:.5f}" == "0.56122 0.43878"
    assert f"{s['pooled']['z']:.3f} {s['pooled']['p']:.2e}" == "5.421 6.48e-08"
    assert [f"{x:.5f}" for x in s["intervals"]["wilson"]] == ["0.53916", "0.58305"]
    assert [f"{x:.5f}" for x in s["intervals"]["clopper_pearson"]] == ["0.53892", "0.58334"]
    p = s["accuracy"]
    assert f"{np.sqrt(40 * p * (1 - p)):.3f}" == "3.138"
    law = st.range_at_most(40, p, 49)
    assert f"{(1 - law).sum():.1f}" == "13.9" and np.searchsorted(law, 0.999) == 21 and 1 - law[23] < 1e-4
    assert f"{st.normal_range(49):.2f} {s['sd']:.2f} {s['rho']:.3f}" == "4.48 5.35 0.049"
    t = s["mean_test"]
    assert f"{t['t']:.2f} {t['df']} {t['p']:.4f} {t['low']:.1f} {t['high']:.1f}" == "3.20 48 0.0024 20.9 24.0"


def test_the_range_of_equal_people_by_brute_force():
    "The exact distribution against 40 000 simulated groups."
    scores = np.random.default_rng(0).binomial(40, 1100 / 1960, (40_000, 49))
    span = np.ptp(scores, 1)
    law = st.range_at_most(40, 1100 / 1960, 49)
    assert abs(span.mean() - (1 - law).sum()) < 0.05
    assert max(abs((span <= r).mean() - law[r]) for r in range(41)) < 0.01


def test_scores_of_people_who_guess():
    assert [f"{st.at_least(k, 40):.4f}" for k in (26, 27, 28)] == ["0.0403", "0.0192", "0.0083"]
    assert [f"{st.at_most(k, 40):.4f}" for k in (12, 13)] == ["0.0083", "0.0192"]
    assert f"{st.at_least(36, 40):.1e}" == "9.3e-08"
    assert f"{np.sqrt(40 / 4):.3f}" == "3.162"
    assert st.guess_limits(40) == (13, 27)
    assert st.guess_limits(4) == (-1, 5)


def test_planning():
    assert f"{st.design_effect(40, 0.05):.2f}" == "2.95" and st.sessions_needed(0.44, 40, 0.05) == 40
    assert st.sessions_needed(0.56, 40, 0.05) == 40
    for bad in ((0.5, 40, 0.05), (0, 40, 0.05), (0.4, 0, 0.05), (0.4, 40, 2)):
        with pytest.raises(ValueError, match="planning needs"):
            st.sessions_needed(*bad)


@pytest.mark.parametrize("error, sessions", [(0.44, 40), (0.44, 60), (0.40, 20), (0.46, 100), (0.45, 40)])
def test_power_of_the_primary_test_is_what_planning_says(error, sessions):
    simulated = st.simulated_power(error, 40, 0.05, sessions)
    planned = st.power(error, 40, 0.05, sessions)
    assert abs(simulated - planned) < 0.05


def test_beta_binomial_fit_finds_what_was_put_in():
    for p, rho in ((0.56, 0.049), (0.5, 0.15), (0.7, 0.01)):
        fit = st.beta_binomial_fit(st.draw_scores(np.random.default_rng(1), 5000, 40, p, rho), 40)
        assert abs(fit["p"] - p) < 0.01 and abs(fit["rho"] - rho) < 0.01
    assert st.beta_binomial_fit(binom.rvs(40, 0.5, size=50, random_state=3), 40)["rho"] < 0.03


# ---- the analysis


def test_somebody_who_knows_and_somebody_who_trusts():
    knows, trusts = crowd(KEY.is_fake), crowd(lambda i: False)
    assert rates(knows)["hype"] == 0 and np.isfinite(signal_detection(knows)["d_prime"]).all()
    of = rates(trusts)
    assert (of["accuracy"], of["fool_rate"], of["real_miss"], of["hype"]) == (0.5, 1, 0, 50)
    assert signal_detection(trusts)["d_prime"][0] == 0 and signal_detection(trusts)["criterion"][0] > 0
    inverted = rates(crowd(lambda i: not KEY.is_fake(i)))
    assert inverted["hype"] == 100


def test_rates_of_a_survey_that_is_not_balanced():
    "The HYPE-style score is half and half whatever the shares; the error rate is over all answers."
    key = _toy_key(10, 30)
    of = rates(crowd(lambda i: False, key=key))
    assert of["error"] == 0.75 and of["hype"] == 50


def test_bootstrap_weights_are_repetitions():
    "One turn with weights equals the plain mean over the rows and columns that were drawn."
    p = tabulate(simulated_records(KEY, 9, seed=4), KEY)
    rng = np.random.default_rng(0)
    people, pictures = _draws(rng, np.zeros(9), 1), _draws(rng, p.source, 1)
    rows = np.repeat(np.arange(9), people[0].astype(int))
    columns = np.repeat(np.arange(40), pictures[0].astype(int))
    wrong, source = 1 - p.correct[np.ix_(rows, columns)], p.source[columns]
    quick = {name: value[0] for name, value in _rates(p, people, pictures).items()}
    assert len(rows) == 9 and (source == "real").sum() == 20
    assert quick["error"] == pytest.approx(wrong.mean())
    assert quick["fool_rate hsr"] == pytest.approx(wrong[:, source == "hsr"].mean())
    on_real = wrong[:, source == "real"].mean()
    on_fake = wrong[:, source != "real"].mean()
    assert quick["hype"] == pytest.approx(50 * (on_real + on_fake))


def test_bootstrap_covers_the_truth():
    "Of 40 panels with people and pictures that differ, the interval of the error rate holds the truth in most."
    rng, inside = np.random.default_rng(0), 0
    for _ in range(40):
        eyes, pictures = rng.normal(0, 0.4, (40, 1)), rng.normal(0, 0.4, (1, 40))
        said = rng.random((40, 40)) < 1 / (1 + np.exp(-(eyes + pictures)))
        p = crowd(*[lambda i: False] * 40)
        object.__setattr__(p, "said_fake", np.where(p.fake, said, ~said).astype(float))
        low, high = bootstrap(p, 400)["accuracy"]
        inside += low <= 0.5 <= high
    assert inside >= 36


def test_primary_test_is_scipys():
    from scipy.stats import ttest_1samp

    scores = st.draw_scores(np.random.default_rng(5), 49, 40, 0.56, 0.05)
    ours, theirs = session_test(scores, 40), ttest_1samp(scores, 20)
    assert (ours["t"], ours["p"]) == (theirs.statistic, theirs.pvalue)
    assert abs(ours["p_sign_flip"] - ours["p"]) < 0.01
    assert session_test([20, 20], 40)["p"] == 1
    with pytest.raises(DataError, match="at least two"):
        session_test([20], 40)


def test_a_shuffled_key_gives_uniform_p_values():
    "The test of sessions, for people who do not agree about pictures; and the key's own test, for people who do."
    rng = np.random.default_rng(0)
    fake = np.array([KEY.is_fake(name) for name in sorted(KEY.of("scored"))])
    answers = rng.random((49, 40)) < rng.beta(4, 4, (49, 1))  # habits differ, eyes do not
    by_session, share = [], []
    for _ in range(400):
        right = rng.permuted(answers, axis=1) == rng.permutation(fake)
        share.append(right.mean())
        by_session.append(session_test(right.sum(1) + rng.uniform(-1e-6, 1e-6, 49), 40, repeats=9)["p"])
    assert abs(np.mean(share) - 0.5) < 0.002 and kstest(by_session, "uniform").pvalue > 0.01

    p = crowd(*[lambda i: False] * 49)
    object.__setattr__(p, "said_fake", (rng.random((49, 40)) < rng.random((1, 40))).astype(float))
    by_key = []
    for seed in range(200):
        shuffled = dict(zip(sorted(KEY.of("scored")), rng.permutation(fake), strict=True))
        items = {n: d | {"class": "fake" if shuffled.get(n, True) else "real"} for n, d in KEY.items.items()}
        object.__setattr__(p, "key", type(KEY)(KEY.survey, 40, items, KEY.about))
        by_key.append(key_test(p, 199, seed))
    jittered = np.array(by_key) - rng.uniform(0, 1 / 200, 200)
    assert kstest(jittered, "uniform").pvalue > 0.01


def test_reliability_against_hand_made_cases():
    assert kr20(np.array([[1, 1, 1, 1], [0, 0, 0, 0]])) == pytest.approx(4 / 3 * (1 - 4 * 0.25 / 4))
    same = crowd(*[lambda i: int(i, 16) % 2 == 0] * 6)
    assert reliability(same)["fleiss_kappa"] == 1 and reliability(same)["split_half"] == pytest.approx(1)
    rng = np.random.default_rng(0)
    noise = crowd(*[lambda i: rng.random() < 0.5] * 40)
    found = reliability(noise)
    assert abs(found["fleiss_kappa"]) < 0.05 and abs(found["split_half"]) < 0.35 and abs(found["kr20"]) < 0.7


def test_items_sessions_and_times():
    p = crowd(KEY.is_fake, KEY.is_fake, lambda i: False)
    rows = {r["item"]: r for r in per_item(p)}
    assert {r["wrong"] for r in rows.values() if r["source"] == "real"} == {0}
    assert {r["wrong"] for r in rows.values() if r["source"] != "real"} == {1} and {
        r["asked"] for r in rows.values()
    } == {3}
    people = per_session(p)
    assert [r["score"] for r in people] == [40, 40, 20]
    assert people[0]["p"] < 1e-10
    assert people[2]["p"] == 1
    assert [r["failed"] for r in people] == [False, False, True]
    assert timing(p)["median_ms"] == 900 and timing(p)["accuracy_by_quarter"][0] > 0.5
    none = timing(crowd(KEY.is_fake, lambda i: False, rt_ms=None))
    assert np.isnan(none["median_ms"])


def test_learning_is_seen():
    "People who know the second half of what they are shown."
    records = []
    for number in range(12):
        session = f"{number + 1:032x}"
        for pos, item in enumerate(item_order(KEY, session)):
            right = pos >= 21 or (pos + number) % 2 == 0
            values = (
                1,
                session,
                item,
                pos,
                "fake" if KEY.is_fake(item) == right else "real",
                500,
                None,
                False,
                "2025-01-31",
            )
            records.append(dict(zip(FIELDS, values, strict=True)))
    found = timing(tabulate(records, KEY))
    assert found["slope_per_ten"] > 0.1 and found["slope_p"] < 1e-4
    assert found["accuracy_by_quarter"][3] == 1 and found["accuracy_by_quarter"][0] < 0.7


def test_generators_are_told_apart_and_the_estimator_is_named():
    fooled = crowd(*[lambda i: KEY.is_fake(i) and KEY.items[i]["source"] == "baseline"] * 10)
    (row,) = compare_generators(fooled, bootstrap(fooled, 300))
    assert (row["a"], row["b"], row["difference"]) == ("baseline", "hsr", 1)
    assert row["p_these"] < 0.01 and row["p_such"] < 0.01
    some = tabulate(simulated_records(KEY, 20, seed=1), KEY)
    model = mixed_model(some)
    assert "fit_vb" in model["estimator"] and "statsmodels" in model["estimator"] and len(model["rows"]) == 1
    assert "standard deviation is too small" in model["estimator"]
    told = "\n".join(summary_lines(analyse_panel(some, repeats=50, mixed=True)))
    assert "fit_vb" in told and "too small" in told


def with_opinions(rng, panel, spread=1.0):
    "The same sessions, whose people agree about pictures; generators do not differ."
    people = len(panel.sessions)
    deceives, habits = rng.normal(0, spread, 40), rng.normal(0, 0.3, (people, 1))
    chance = 1 / (1 + np.exp(-deceives - habits))
    return replace(panel, said_fake=(rng.random((people, 40)) > chance).astype(float))


def test_false_alarms_where_people_share_opinions_about_pictures():
    "Equal generators: p for such pictures is evenly spread and alarms 5 times of 100; p for these pictures, much more."
    rng, empty = np.random.default_rng(0), crowd(*[lambda i: False] * 40)
    nothing = {"hsr - baseline": (np.nan, np.nan)}
    rows = [compare_generators(with_opinions(rng, empty), nothing, 199, seed)[0] for seed in range(600)]
    such, these = (np.array([row[f"p_{kind}"] for row in rows]) for kind in ("such", "these"))
    assert 0.03 <= (such < 0.05).mean() <= 0.07 and (these < 0.05).mean() > 0.3
    assert kstest(such - rng.uniform(0, 1 / 200, len(such)), "uniform").pvalue > 0.01
    assert all(0 < row["p_such"] <= row["holm_such"] <= 1 for row in rows)


def test_a_generator_that_fools_more_is_found():
    "The test for such pictures has power: a log-odds of 1.5 between the generators, opinions shared."
    rng, empty = np.random.default_rng(1), crowd(*[lambda i: False] * 40)
    better = np.where(empty.source == "hsr", 1.5, 0.0)
    nothing, found = {"hsr - baseline": (np.nan, np.nan)}, 0
    for seed in range(60):
        chance = 1 / (1 + np.exp(-rng.normal(0, 0.7, 40) - better))
        panel = replace(empty, said_fake=(rng.random((40, 40)) > chance).astype(float))
        (row,) = compare_generators(panel, nothing, 199, seed)
        found += row["p_such"] < 0.05 and row["difference"] > 0
    assert found >= 50


def test_holm_is_statsmodels():
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for count in (1, 3, 6):
        values = list(rng.random(count) ** 3)
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    assert holm([]) == []


def test_three_generators_are_adjusted():
    key = _toy_key(attention=0)
    for number, name in enumerate(key.of("scored")):
        key.items[name]["source"] = ("real", "a", "b", "c")[0 if number < 20 else 1 + number % 3]
    found = analyse_panel(tabulate(simulated_records(key, 20, seed=1), key), repeats=50)
    assert [(row["a"], row["b"]) for row in found["comparison"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row["holm_such"] for row in found["comparison"]] == holm([row["p_such"] for row in found["comparison"]])
    assert "(Holm, 3 pairs)" in "\n".join(summary_lines(found))


def test_habits_are_no_eyes_where_classes_differ_in_size():
    "Thirty real pictures and ten fakes, people who mostly say real and see nothing: no test may call that an eye."
    key = _toy_key(30, 10)
    rng, empty = np.random.default_rng(2), crowd(*[lambda i: False] * 30, key=key)
    alarms, pooled, plain, singles = [], [], [], []
    for _ in range(200):
        panel = replace(empty, said_fake=(rng.random((30, 40)) < 0.2).astype(float))
        alarms.append(session_test(panel.fair_scores, 40, 19)["p"])
        plain.append(session_test(panel.scores, 40, 19)["p"])
        pooled.append(assuming_independence(panel)["p"])
        if len(alarms) % 20 == 0:
            singles += [row["p"] for row in per_session(panel)]
    assert np.mean(np.array(plain) < 0.05) > 0.95  # what the plain score would have said
    for values in (alarms, pooled, singles):
        assert np.mean(np.array(values) < 0.05) <= 0.08
    found = analyse_panel(empty, repeats=50)
    text = "\n".join(summary_lines(found))
    assert not found["balanced"] and "not equally many" in text and "fair score" in text
    assert found["primary"]["p"] == 1 and found["mean"] == 30
    knows = crowd(*[key.is_fake] * 4, key=key)
    assert knows.fair_scores.tolist() == [40] * 4 and assuming_independence(knows)["p"] < 1e-6


def test_what_a_number_speaks_of_is_said():
    text = "\n".join(summary_lines(analyse_panel(tabulate(simulated_records(KEY, 12), KEY), repeats=50)))
    assert "sessions as the unit, for these pictures only" in text and "for pictures such as these" in text.lower()
    assert "signs flipped by person" in text and "two-way cluster bootstrap" in text and "(95 %, t)" in text


def test_a_pool_of_which_everybody_sees_a_part():
    key = _toy_key(60, 60, questions=40)
    p = tabulate(simulated_records(key, 30, seed=2), key)
    assert p.said_fake.shape == (30, 120) and (p.asked.sum(1) == 40).all()
    found = analyse_panel(
        p, repeats=200
    )  # the mixed model without being asked for: scores are about different pictures
    assert "parts of a pool" in "\n".join(summary_lines(found)) and not found["whole_pool"]
    assert np.isnan(found["reliability"]["kr20"]) and found["judgements"] == 1200 and found["mixed_model"]["rows"]
    for row in p.asked:
        assert p.fake[row].sum() == 20


def test_everything_is_said_to_be_simulated_or_nothing_is():
    found = analyse_panel(tabulate(simulated_records(KEY, 12), KEY), repeats=100)
    text = "\n".join(summary_lines(found))
    assert text.startswith("**SIMULATED") and comparison_rows(found)[-1][0].startswith("SIMULATED")
    figures = all_figures(tabulate(simulated_records(KEY, 12), KEY), found)
    for name, figure in figures.items():
        texts = [t.get_text() for t in figure.texts] + [figure.get_suptitle()]
        assert any("SIMULATED" in t for t in texts) == (name[0] not in "12"), name
    people = analyse_panel(crowd(KEY.is_fake, lambda i: False), repeats=100)
    assert "SIMULATED" not in "\n".join(summary_lines(people)) + str(comparison_rows(people))


def test_figures_say_what_they_show():
    p = crowd(KEY.is_fake, lambda i: False)
    found = analyse_panel(p, repeats=100)
    for name, figure in all_figures(p, found).items():
        for word in ("sessions", "40 pictures", "2025-01-31" if name[0] in "345678" else ""):
            assert word in figure.get_suptitle(), (name, word)


def test_figures_name_their_intervals():
    "And what they call being wrong, what was moved, and how p-values were adjusted."
    p = crowd(*[lambda i: not KEY.is_fake(i)] * 2, KEY.is_fake)
    figures = all_figures(p, analyse_panel(p, repeats=50))

    def words(name):
        (figure,) = [figure for number, figure in figures.items() if number.startswith(name)]
        return " ".join(text.get_text() for text in figure.findobj(Text))

    assert "Wilson" in words("2") and "t; sd from the range" in words("2")
    assert "real, called fake by 67 %" in words("5") and "hsr, called real by 67 %" in words("5")
    assert "deceive" not in words("5") and "95 % Wilson" in words("5")
    assert words("6").count("95 % two-way bootstrap") == 2 and "these pictures only" in words("6")
    assert "points are moved" in words("7") and "two-way bootstrap" in words("9") and "by t" in words("9")


# ---- answers as files


def test_records_hold_nine_plain_fields_and_nothing_else():
    (record, *_) = simulated_records(KEY, 1)
    assert record_fault(record) is None and tuple(record) == FIELDS
    for extra in ({"email": "a"}, {"ip": "127.0.0.1"}, {"agent": "x"}):
        assert "exactly the fields" in record_fault(record | extra)
    for field, bad in [
        ("schema", 2),
        ("session", "x"),
        ("item", "../key"),
        ("pos", 1.5),
        ("answer", "maybe"),
        ("rt_ms", -1),
    ]:
        assert field in record_fault(record | {field: bad})
    for field, bad in [("conf", 6), ("conf", True), ("flip", 1), ("t", "2025-01-31T10:11"), ("t", None), ("pos", None)]:
        assert field in record_fault(record | {field: bad})
    for nothing in (None, [], 3, {}, {"schema": 1}):
        assert record_fault(nothing)


def test_broken_answers_are_named(tmp_path):
    lines = to_lines(simulated_records(KEY, 2))
    with pytest.raises(DataError, match="line 3: is not JSON"):
        parse_lines("\n".join(lines.splitlines()[:2]) + "\n{oops", "a.jsonl")
    person = simulated_records(KEY, 1)[0] | {"session": "a" * 32}
    with pytest.raises(DataError, match="never analysed together"):
        parse_lines(lines + to_lines([person]), "a.jsonl")
    with pytest.raises(DataError, match="not in this key"):
        tabulate([person | {"item": "ffff"}], KEY)
    with pytest.raises(DataError, match="twice"):
        tabulate([person, person], KEY)
    with pytest.raises(DataError, match="no complete session"):
        tabulate([person], KEY)
    (tmp_path / "db").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(DataError, match="not the database of a survey"):
        read_answers(tmp_path / "db")


def test_anonymising_leaves_no_way_back():
    records = simulated_records(KEY, 5)
    out = anonymise(records)
    assert not {r["session"] for r in out} & {r["session"] for r in records}
    assert all(r["session"].startswith(SIMULATED) for r in out)
    scores = [sorted(tabulate(rs, KEY).scores.tolist()) for rs in (records, out)]
    assert scores[0] == scores[1] and [r["session"] for r in out] == sorted(r["session"] for r in out)


def test_orders():
    orders = [item_order(KEY, f"{i:032x}") for i in range(40)]
    assert len({tuple(o) for o in orders}) == 40
    assert all(sorted(o) == sorted(KEY.items) for o in orders)
    assert orders == [item_order(KEY, f"{i:032x}") for i in range(40)]
    places = [order.index(name) for order in orders for name in KEY.of("attention")]
    assert min(places) >= 3 and max(places) > 30
    first = [KEY.is_fake(order[0]) for order in orders]
    assert 8 < sum(first) < 32


# ---- the build


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return small_survey(tmp_path_factory.mktemp("built") / "faces", questions=40)


def test_nothing_but_the_key_says_which_is_which(survey):
    names = sorted(survey.key.items)
    files = {n: survey.folder / "pictures" / f"{n}.png" for n in names}
    assert sorted(p.stem for p in files.values()) == sorted(p.stem for p in (survey.folder / "pictures").iterdir())
    assert (
        len({f.stat().st_size for f in files.values()}) == 1
        and len({f.stat().st_mtime_ns for f in files.values()}) == 1
    )
    public = [p for p in survey.folder.rglob("*") if p.suffix in (".json", ".txt")]
    said = "".join(p.read_text() for p in public if p.name != "words.txt")
    for secret in ("fake", "class", "seed", "baseline", "hsr", "synthfaces", survey.key.about["secret"]):
        assert f'"{secret}"' not in said, secret
    for f in files.values():
        assert not Image.open(f).info and re.findall(rb"(?:tEXt|iTXt|zTXt|tIME|eXIf)", f.read_bytes()) == []
    assert stat.S_IMODE(key_file(survey.folder).stat().st_mode) == 0o600


def test_the_order_of_names_says_nothing():
    "Whatever the secret: the ranks of fakes among the names are those of a shuffled pack."
    rng = np.random.default_rng(0)
    cast = [Item(None, "real" if i < 20 else "hsr", {}) for i in range(40)]
    found = []
    for _ in range(300):
        named = _named(cast, rng.bytes(16).hex(), 0)
        ranks = {
            source: [i for i, item in enumerate(named.values()) if item.source == source] for source in ("real", "hsr")
        }
        found.append(auc(ranks["real"], ranks["hsr"])[1])
        assert list(named) == sorted(named) and all(re.fullmatch("[0-9a-f]{12}", name) for name in named)
    assert kstest(found, "uniform").pvalue > 0.01


def test_the_key_says_how_all_was_made(survey):
    about, items = survey.key.about, list(survey.key.items.values())
    assert about["truncation"] == 0.7 and about["seed"] == 0 and len(about["sources"]["hsr"]["sha256"]) == 64
    counts = {s: sum(i["role"] == "scored" and i["source"] == s for i in items) for s in ("real", "baseline", "hsr")}
    assert counts == {"real": 20, "baseline": 10, "hsr": 10}
    assert all("seed" in i and i["psi"] == 0.7 for i in items if i["class"] == "fake")
    file_size = about["separability"][0]
    assert (file_size["number"], file_size["auc"]) == ("file_size", 0.5) and "provenance" in about


def test_the_same_seed_and_secret_build_the_same_bytes(tmp_path):
    a, b = (small_survey(tmp_path / n, questions=6, secret="ab" * 16, seed=4) for n in "ab")
    assert {n: a.picture(n) for n in a.key.items} == {n: b.picture(n) for n in b.key.items}
    c = small_survey(tmp_path / "c", questions=6, seed=4)
    assert not set(c.key.items) & set(a.key.items)  # names come from the secret, pictures from the seed
    assert sorted(map(c.picture, c.key.items)) == sorted(map(a.picture, a.key.items))


def photographs(folder, count=30, size=48, seed=5, **save):
    folder.mkdir()
    faces = SynthFaces(resolution=size, seed=seed).images(range(count))
    for i, face in enumerate(faces):
        image = Image.fromarray(face.permute(1, 2, 0).numpy())
        image.save(folder / f"IMG_{i:03d}.{'jpg' if save else 'png'}", **save)
    return folder


def test_leaks_are_named(tmp_path):
    "Real pictures that are JPEGs of low quality against clean ones."
    bad = photographs(tmp_path / "jpeg", 40, size=64, quality=12, comment=b"taken by somebody")
    good = photographs(tmp_path / "clean", 40, size=64, seed=6)
    with pytest.warns(UserWarning) as said:
        made = build_survey(str(bad), {"drawn": str(good)}, tmp_path / "s", Plan(questions=40, size=64))
    text = "\n".join(str(w.message) for w in said)
    assert (
        "compressed size tells the classes apart: generated pictures compress worse" in text
        and "AUC" in text
        and "blockiness" in text
    )
    assert all(b"taken by" not in made.picture(n) for n in made.key.items)


def test_near_duplicates_go(tmp_path):
    real, fake = photographs(tmp_path / "real", 20, size=32), photographs(tmp_path / "fake", 20, size=32, seed=6)
    for i in range(3):
        Image.open(real / f"IMG_{i:03d}.png").save(fake / f"IMG_{i:03d}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = build_survey(str(real), {"copied": str(fake)}, tmp_path / "s", Plan(questions=20, size=32, attention=0))
    shown = [made.picture(n) for n in made.key.items]
    assert len(set(shown)) == len(shown) and made.key.about["near_duplicates"]["removed"]


def test_sources_of_different_detail_are_made_equal(tmp_path):
    "Photographs of 128 pixels beside a generator of 32: both are shown with the detail of 32."
    real = photographs(tmp_path / "real", 20, size=128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = build_survey(str(real), {"hsr": "synthfaces-hsr"}, tmp_path / "s", Plan(questions=10, size=64))
    assert made.key.about["detail"] == 32 and made.size == 64
    assert Image.open(io.BytesIO(made.picture(next(iter(made.key.items))))).size == (64, 64)


def test_attributions_are_kept(tmp_path):
    real = photographs(tmp_path / "real", 12, size=32)
    (tmp_path / "credits.json").write_text(json.dumps({f"IMG_{i:03d}.png": f"Photo {i}, CC BY" for i in range(12)}))
    plan = Plan(questions=4, size=32, attention=0, attribution=str(tmp_path / "credits.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = build_survey(str(real), {"hsr": "synthfaces-hsr"}, tmp_path / "s", plan)
    credited = [i for i in made.key.items.values() if "attribution" in i]
    assert credited and all(i["source"] == "real" and "CC BY" in i["attribution"] for i in credited)


def test_doubts_are_told_at_the_build(tmp_path):
    "Classes of unequal size, a judge of drawn faces before photographs, photographs that are nobody's."
    real = photographs(tmp_path / "real", 40, size=32)
    (tmp_path / "minors.txt").write_text("\n".join(f"IMG_{i:03d}.png" for i in range(10)))

    def told(where, source, **plan):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            plan = Plan(questions=8, size=32, attention=0, **plan)
            made = build_survey(source, {"hsr": "synthfaces-hsr"}, tmp_path / where, plan)
        return "\n".join(str(w.message) for w in said), made

    text, made = told("a", str(real), real_fraction=0.75, leave_out=str(tmp_path / "minors.txt"))
    assert "6 real and 2 generated pictures" in text and "fair scores" in text
    assert "synthfaces-attributes, which knows drawn faces; for the pictures of real" in text and "--judge" in text
    assert "nobody said whose" in text and licence_of(made.key) == ""
    files = [item["file"] for item in made.key.items.values() if "file" in item]
    assert files and all(int(name[4:7]) >= 10 for name in files)
    text, made = told("b", str(real), licence="drawn for this test, CC0")
    assert (
        "nobody said" not in text and "fair scores" not in text and licence_of(made.key) == "drawn for this test, CC0"
    )
    text, made = told("c", "synthfaces")
    assert "drawn faces;" not in text and "nobody said" not in text and "Apache-2.0" in licence_of(made.key)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(size=100), "size is one of"),
        (dict(questions=1), "at least 2 questions"),
        (dict(questions=10, pool=5), "a pool of at least so many"),
        (dict(real_fraction=0.0), "real_fraction"),
        (dict(real_fraction=0.99, questions=4), "without any"),
        (dict(attention=99), "attention is 0 to 10"),
        (dict(secret="short"), "32 hexadecimal digits"),
    ],
)
def test_plans_that_cannot_be_followed(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan = Plan(**{"size": 32, **change})
        build_survey("synthfaces", TWO, tmp_path / "s", plan)
    assert list(tmp_path.iterdir()) == []


def test_sources_that_cannot_be_used(tmp_path):
    few = photographs(tmp_path / "few", 3, size=32)
    with pytest.raises(DataError, match="different pictures that are large enough, 2[01] are needed"):
        build_survey(str(few), {"hsr": "synthfaces-hsr"}, tmp_path / "s", Plan(size=32))
    with pytest.raises(DataError, match="no source of pictures"):
        build_survey("nowhere", TWO, tmp_path / "s", Plan(size=32))
    (few / "IMG_001.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match="IMG_001.png"):
        build_survey(str(few), {"hsr": "synthfaces-hsr"}, tmp_path / "s", Plan(size=32))
    with pytest.raises(ValueError, match="labels"):
        build_survey("synthfaces", {"real": "synthfaces-hsr"}, tmp_path / "s", Plan(size=32))
    with pytest.raises(ValueError, match="exposure_ms"):
        build_survey("synthfaces", TWO, tmp_path / "s", Plan(size=32), Rules(exposure_ms=1))
    assert not (tmp_path / "s").exists() and not key_file(tmp_path / "s").exists()


def test_a_survey_that_does_not_hang_together(tmp_path):
    a, b = small_survey(tmp_path / "a", questions=4), small_survey(tmp_path / "b", questions=4)
    with pytest.raises(DataError, match="key of another survey"):
        load_survey(a.folder, key_file(b.folder))
    next((a.folder / "pictures").iterdir()).unlink()
    with pytest.raises(DataError, match="lacks the picture"):
        load_survey(a.folder)
    (b.folder / "survey.json").write_text("{")
    with pytest.raises(DataError, match="does not describe a survey"):
        load_survey(b.folder)
    store = Store(answers_file(a.folder), a.name)
    store.ledger.close()
    with pytest.raises(DataError, match="another survey"):
        Store(answers_file(a.folder), b.name)


def test_words(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("[title]\n<script>alert(1)</script>\n")
    assert load_words(file).html("title") == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert load_words(file).text("stop") == load_words().text("stop")
    for bad, sentence in [
        ("[titel]\nx", "did you mean"),
        ("x\n[title]", "before the first text"),
        ("[stop]\n[stop]", "twice"),
    ]:
        file.write_text(bad)
        with pytest.raises(DataError, match=sentence):
            load_words(file)


# ---- leaving


def test_withdrawing_leaves_nothing(tmp_path):
    file = tmp_path / "answers.db"
    store = Store(file, "s")
    sessions = [store.begin({"age": "30 to 44"}) for _ in range(3)]
    for session, _ in sessions:
        for pos in range(5):
            store.answer(session, f"{pos:04x}", pos, "real", 100 + pos)
    assert withdraw(store, sessions[1][0]) == (5, True)
    for part in tmp_path.iterdir():
        assert sessions[1][0].encode() not in part.read_bytes(), part.name
    assert store.place(sessions[1][1]) is None and store.place(sessions[0][1]).answered == 5
    store.ledger.close()
    assert {r["session"] for r in read_answers(file)[0]} == {sessions[0][0], sessions[2][0]}


def test_withdrawing_while_somebody_reads(tmp_path, capsys):
    "A reader that holds the old state keeps its pages on the disk: that is said, and mended as soon as it has gone."
    file = tmp_path / "answers.db"
    store = Store(file, "s")
    leaving, staying = (store.begin()[0] for _ in range(2))
    for session in (leaving, staying):
        store.answer(session, "0001", 0, "real", 100)

    def traces():
        return [part.name for part in tmp_path.iterdir() if leaving.encode() in part.read_bytes()]

    reading = sqlite3.connect(file)
    reading.execute("BEGIN")
    assert len(reading.execute("SELECT * FROM answers").fetchall()) == 2
    assert withdraw(store, leaving) == (1, False) and traces() and store.ledger.unswept
    store.answer(staying, "0002", 1, "real", 100)  # others go on meanwhile
    assert store.ledger.unswept and traces()
    reading.close()
    store.answer(staying, "0003", 2, "real", 100)
    assert not store.ledger.unswept and traces() == []
    store.ledger.close()
    assert {r["session"] for r in read_answers(file)[0]} == {staying}


def test_withdraw_of_the_command_says_what_is_left(tmp_path, capsys):
    "Exit code 1 while another program reads; the same command again makes it good. No key is needed."
    made = small_survey(tmp_path / "faces", questions=4)
    key_file(made.folder).unlink()
    store = Store(answers_file(made.folder), made.name)
    session, _ = store.begin()
    store.answer(session, "0001", 0, "real", 100)
    reading = sqlite3.connect(store.ledger.path)
    reading.execute("BEGIN")
    reading.execute("SELECT * FROM answers").fetchall()
    assert main(["withdraw", str(made.folder), session]) == 1
    said = capsys.readouterr()
    assert "1 answer deleted" in said.out and "still holds the deleted rows" in said.err
    reading.close()
    assert main(["withdraw", str(made.folder), session]) == 2 and "no session" in capsys.readouterr().err
    for part in tmp_path.iterdir():
        assert part.is_dir() or session.encode() not in part.read_bytes(), part.name
    store.ledger.close()


def test_databases_from_before_pictures_were_remembered(tmp_path):
    "The column is added, and what was answered counts as sent."
    file = tmp_path / "answers.db"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(TABLES.replace(" who TEXT,\n    shown INTEGER NOT NULL DEFAULT 0", " who TEXT"))
        assert "shown" not in "".join(db.iterdump())
        db.execute("INSERT INTO about VALUES ('s')")
        db.execute("INSERT INTO sessions VALUES (?, ?, '2025-01-31', 0, 1, NULL)", ("a" * 32, _hashed("b" * 32)))
        db.execute("INSERT INTO answers VALUES (?, '0001', 0, 'real', 9, NULL, 0, '2025-01-31')", ("a" * 32,))
        db.commit()
    store = Store(file, "s")
    assert (store.place("b" * 32).answered, store.place("b" * 32).shown) == (1, 1) and store.show("a" * 32, 1)
    store.ledger.close()


def test_buttons_change_places_for_half(tmp_path):
    store = Store(tmp_path / "answers.db", "s")
    flips = [store.place(store.begin()[1]).flip for _ in range(20)]
    assert sum(flips) == 10
    store.ledger.close()


# ---- the command


def test_command_line(tmp_path, capsys):
    out = str(tmp_path / "faces")
    words = ["build", out, "synthfaces", *[f"{k}={v}" for k, v in TWO.items()]]
    assert main([*words, "--size", "32", "--questions", "8", "--truncation", "0.7", "--demographics"]) == 0
    assert "8 pictures and 2 attention items" in capsys.readouterr().out
    assert main(words) == 2 and "already" in capsys.readouterr().err
    made = load_survey(out)
    store = Store(answers_file(out), made.name)
    for said in ("real", "fake"):
        session, _ = store.begin({"age": "30 to 44"})
        for pos, item in enumerate(item_order(made.key, session)):
            store.answer(session, item, pos, said, 700)
    stopped, _ = store.begin()
    store.answer(stopped, item_order(made.key, stopped)[0], 0, "real", None)
    store.begin()  # and somebody who never answered
    almost, _ = store.begin()  # all scored pictures, but for the last attention item
    order = item_order(made.key, almost)
    missing = max(order.index(item) for item in made.key.of("attention"))
    for pos, item in enumerate(order[:missing] + order[missing + 1 :]):
        store.answer(almost, item, pos, "real", 700)
    store.ledger.close()
    kept = tmp_path / "elsewhere.json"
    key_file(out).rename(kept)
    assert main(["status", out]) == 2 and "elsewhere" not in capsys.readouterr().err
    assert main(["status", out, "--key", str(kept)]) == 0
    told = "5 sessions: 2 complete, 3 not, 1 of them without any answer; 30 answers"
    assert told in capsys.readouterr().out
    assert main(["export", out, str(tmp_path / "early.jsonl")]) == 0  # no key is needed
    assert "30 answers; not in it: 1 session without any answer" in capsys.readouterr().out
    kept.rename(key_file(out))
    assert main(["analyse", out, "--repeats", "100", "--out", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert (
        "2 complete sessions of 8 pictures, 3 incomplete" in said
        and "assumes independence" in said
        and "| ours |" in said
    )
    results = json.loads((tmp_path / "results/results.json").read_text())
    assert results["failed_attention"] == 1 and results["primary_without_failed"] is None
    assert len(list((tmp_path / "results").glob("figure-*.png"))) == 9
    assert main(["export", out, str(tmp_path / "a.jsonl"), "--anonymise"]) == 0
    text = (tmp_path / "a.jsonl").read_text()
    assert len(parse_lines(text, "a.jsonl")) == 30 and session not in text
    assert stat.S_IMODE((tmp_path / "a.jsonl").stat().st_mode) == 0o600
    assert analyse(tmp_path / "a.jsonl", key_file(out), repeats=50)["sessions"] == 2
    assert main(["export", out, str(tmp_path / "b.jsonl")]) == 0 and (tmp_path / "b.jsonl.people.json").exists()
    assert main(["withdraw", out, session]) == 0 and "10 answers deleted" in capsys.readouterr().out
    assert main(["withdraw", out, session]) == 2 and "no session" in capsys.readouterr().err


def test_command_line_refuses(tmp_path, capsys):
    out = str(tmp_path / "none")
    for words, sentence in [
        (["serve", out], "is no survey"),
        (["status", out], "is no survey"),
        (["build", out, "synthfaces", "hsr"], "LABEL=SOURCE"),
        (["build", out, "synthfaces"], "labels"),
        (["serve", out, "--public"], "--public needs the address"),
        (["serve", out, "--host", "0.0.0.0"], "can be reached from other machines"),
        (["serve", out, "--host", "0.0.0.0", "--public"], "name what people type"),
    ]:
        assert main(words) == 2, words
        assert sentence in capsys.readouterr().err, words
    assert main(["serve", out, "--public"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("consent", "HTTPS", "licences", "key file", "backup"))


def test_the_example_is_whole_and_its_panel_is_called_simulated():
    made = load_survey(EXAMPLE / "faces")
    counts = [i["source"] for i in made.key.items.values() if i["role"] == "scored"]
    assert {s: counts.count(s) for s in counts} == {"real": 20, "baseline": 10, "hsr": 10}
    assert made.key.about["truncation"] == 0.7
    told = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for row in made.key.about["separability"]:  # what gives the classes away is told with the example
        leak = "yes" if row["leak"] else ""
        assert f"| {row['number'].replace('_', ' ')} | {row['auc']:.2f} | {row['p']:.2g} | {leak} |" in told, row
    records, _ = read_answers(EXAMPLE / "simulated-panel.jsonl")
    assert all(r["session"].startswith(SIMULATED) for r in records)
    assert analyse(EXAMPLE / "simulated-panel.jsonl", key_file(EXAMPLE / "faces"), repeats=100)["simulated"]
    results = list((ROOT / "data/results").glob("survey-simulated-panel-*.json"))
    assert results and all(json.loads(p.read_text())["config"]["simulated"] for p in results)
    measured = {row["what"]: row for path in results for row in json.loads(path.read_text())["rows"]}
    for row in made.key.about["separability"]:
        assert measured[f"AUC of {row['number']}"]["value"] == row["auc"]
        assert measured[f"AUC of {row['number']}"]["leak"] == row["leak"]
    assert {"p_such", "p_these"} < set(measured["hsr - baseline"]) and "for these pictures only" in str(measured)
    assert sum(p.stat().st_size for p in EXAMPLE.rglob("*") if p.is_file()) < 1_500_000
    assert os.path.getsize(EXAMPLE / "simulated-panel.jsonl") < 800_000


@pytest.mark.slow
def test_the_experiment(tmp_path):
    "The page with its own parameters and fewer repetitions."
    papermill = pytest.importorskip("papermill")
    page = ROOT / "nbs/experiments/survey.ipynb"
    fewer = dict(repeats=100, mixed=False, results=str(tmp_path / "results"), out_dir=str(tmp_path / "figures"))
    papermill.execute_notebook(page, tmp_path / "out.ipynb", fewer, kernel_name="python3", cwd=ROOT, progress_bar=False)
    text = (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    assert "1100 of 1960 right" in text and "z = 5.421, p = 6.48e-08" in text and "SIMULATED" in text
    assert len(list((tmp_path / "figures").iterdir())) == 9
    (file,) = (tmp_path / "results").iterdir()
    assert json.loads(file.read_text())["config"]["simulated"] is True

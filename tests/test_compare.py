"""Statistics of settings that were trained on the same splits, and what is said about them."""

import json
import math

import pytest
import torch
from scipy import stats

from tritonpool.compare.paired import compare, effect, ratio
from tritonpool.compare.report import Study, Trained, draw, findings, markdown, write

REFERENCE = [0.45, 0.46, 0.47, 0.44, 0.49]
LOWER = [0.40, 0.44, 0.42, 0.41, 0.45]
SHARE = 0.125


def study(*, higher_is_better: bool = False, seconds=None, **values) -> Study:
    """Settings with these values of a metric, 80 molecules to train on and 10 to test."""
    seconds = seconds or {}
    rows = {
        name.replace("_", "-"): [Trained({"m": x}, seconds.get(name, 1.0), 1000, 80, 10) for x in m]
        for name, m in values.items()
    }
    controls, learned = (
        tuple(name for name in rows if name in kind)
        for kind in (("one-cluster", "rings"), ("diffpool",))
    )
    return Study(rows, controls, learned, "m", higher_is_better)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_best_is_the_one_whose_changes_are():
    values = {"dmpnn": [0.5, 0.5], "rings": [0.11, 0.9]}
    found = study(**values)
    assert found.mean("rings") > found.mean("dmpnn") and found.effect("rings", "dmpnn").gain
    assert found.best(found.names) == "rings"
    # a score is compared by its differences
    assert (found := study(**values, higher_is_better=True)).best(found.names) == "rings"
    # and so is what is not above 0
    assert (found := study(**values, diffpool=[0.6, -0.1])).best(found.names) == "diffpool"
    assert found.best(["dmpnn", "rings"]) == "dmpnn"


def test_the_interval_is_corrected_for_splits_that_overlap():
    found = compare(LOWER, REFERENCE, SHARE)
    differences = torch.tensor(LOWER).double() - torch.tensor(REFERENCE).double()
    assert found.mean == pytest.approx(0.424)
    assert found.difference == pytest.approx(float(differences.mean()))
    # of independent splits
    _, plain = stats.t.interval(0.95, 4, scale=float(differences.std()) / math.sqrt(5))
    assert found.half_width == pytest.approx(plain * math.sqrt((1 / 5 + 1 / 8) * 5))


def test_one_split_has_no_interval():
    found = compare([0.4], [0.5], 0.1)
    assert found.difference == pytest.approx(-0.1) and math.isnan(found.half_width)


def test_errors_change_by_a_share_and_scores_by_a_difference():
    found = effect(LOWER, REFERENCE, SHARE, higher_is_better=False)
    middle, low, high = ratio(LOWER, REFERENCE, SHARE)
    assert (found.change, found.low, found.high) == (middle - 1, low - 1, high - 1)
    shares = torch.tensor(LOWER).double() / torch.tensor(REFERENCE).double()
    assert found.change == pytest.approx(float(shares.log().mean().exp()) - 1)
    assert found.relative and found.sure and found.gain and found.better == 5
    found = effect(LOWER, REFERENCE, SHARE, higher_is_better=True)
    same = compare(LOWER, REFERENCE, SHARE)
    assert (found.change, found.high - found.low) == (same.difference, 2 * same.half_width)
    assert found.sure and not (found.relative or found.gain or found.better)
    # an error of 0 has no logarithm
    assert not effect([0.0, 0.1], [0.1, 0.1], SHARE, higher_is_better=False).relative


@pytest.mark.parametrize("values", [([0.4], [0.5]), ([0.4, 0.6], [0.5, 0.5])])
def test_what_splits_do_not_tell_apart_is_not_sure(values):
    assert not effect(*values, SHARE, higher_is_better=False).sure


def test_findings_compare_with_the_first_and_with_the_best_control():
    same = [x * 1.001 for x in LOWER]
    said = findings(study(dmpnn=REFERENCE, diffpool=LOWER, one_cluster=same, rings=REFERENCE))
    assert said[0].startswith("diffpool: m 8.2 % lower than dmpnn, better on 5 of 5, interval -1")
    assert not said[0].endswith("not told apart.")
    assert said[3].startswith("diffpool: m 0.1 % lower than one-cluster, better on 5 of 5")
    assert said[4] == "Begin with diffpool: the best."
    worse = [x * (1.002 if i % 2 else 0.999) for i, x in enumerate(LOWER)]
    said = findings(study(dmpnn=REFERENCE, diffpool=worse, one_cluster=LOWER))
    assert said[2].endswith("not told apart.")
    assert said[3].startswith("So no gain of learned clusters over one-cluster, whose clusters")
    # a control that is better for sure is no gain either
    said = findings(study(dmpnn=REFERENCE, diffpool=same, one_cluster=LOWER))
    assert "m 0.1 % higher than one-cluster, better on 0 of 5" in said[2]
    assert said[3].startswith("So no gain of learned clusters over one-cluster")
    assert len(findings(study(one_cluster=REFERENCE, rings=LOWER))) == 2  # nothing is learned


def test_findings_take_no_model_without_levels_for_a_pooled_one():
    rows = {"dmpnn": REFERENCE, "one_cluster": LOWER, "wide": LOWER}
    assert not any("learned" in line for line in findings(study(**rows)))
    # the first setting may be the one with learned clusters, or the control
    said = findings(study(diffpool=LOWER, one_cluster=REFERENCE))
    assert said[1].startswith("diffpool: m 8.2 % lower than one-cluster") and len(said) == 3
    said = findings(study(one_cluster=REFERENCE, diffpool=LOWER))
    assert said == [said[0], "Begin with diffpool: the best."]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("higher_is_better", [False, True])
def test_a_metric_that_is_no_number_is_said_and_never_best(tmp_path, bad, higher_is_better):
    for name in ("dmpnn", "diffpool"):
        values = {"dmpnn": REFERENCE, "diffpool": REFERENCE}
        values[name] = [*LOWER[:4], bad]
        found = study(**values, higher_is_better=higher_is_better)
        other = "diffpool" if name == "dmpnn" else "dmpnn"
        assert findings(found) == [
            f"diffpool: cannot be compared with dmpnn, because m of {name} is {bad} on split 4.",
            f"Begin with {other}: the best.",
        ]
        assert cells(markdown(found).splitlines()[3])[2:4] == ["-", "-"]
        write(found, {"dmpnn": [], "diffpool": []}, tmp_path)
        json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    found = study(dmpnn=[bad], diffpool=[bad])
    assert found.recommended() is None
    assert findings(found)[-1] == "No setting has a number for m on every split."


def refuse(name):
    """JSON has no NaN and no infinity."""
    raise AssertionError(name)


def test_names_are_no_formulas(tmp_path):
    found = Study(
        {name: [Trained({"m": 0.5}, 1.0, 9, 8, 1)] for name in ("a", "$^$")}, (), (), "m", False
    )
    draw(found, tmp_path / "names.png")


def test_the_quickest_of_the_best_is_recommended():
    near = [x * (1.01 if i % 2 else 0.995) for i, x in enumerate(LOWER)]
    seconds = {"dmpnn": 1.0, "diffpool": 3.0, "rings": 2.0}
    found = study(dmpnn=REFERENCE, diffpool=LOWER, rings=near, seconds=seconds)
    assert found.best(found.names) == "diffpool" and found.recommended() == "rings"
    assert findings(found)[-1] == (
        "Begin with rings: not told apart from the best, diffpool, and an epoch takes 0.67 times "
        "as long."
    )
    # of two splits time decides nothing
    found = study(dmpnn=[0.5, 0.6], rings=[0.4, 0.59], seconds={"dmpnn": 0.1, "rings": 9.0})
    assert found.recommended() == "rings"
    assert findings(found)[-1] == "Begin with rings: the best here, but 2 splits cannot tell."
    # hardly any time is no reason to leave the best
    found = study(dmpnn=REFERENCE, diffpool=LOWER, rings=near, seconds=seconds | {"diffpool": 2.2})
    assert found.recommended() == "diffpool"
    found = study(dmpnn=REFERENCE, diffpool=LOWER, rings=near, seconds=seconds | {"diffpool": None})
    assert findings(found)[-1] == "Begin with rings: not told apart from the best, diffpool."
    # the other way round for a score; a time that is not known is no reason
    seconds["rings"] = None
    found = study(dmpnn=LOWER, rings=near, diffpool=REFERENCE, higher_is_better=True)
    assert found.best(found.names) == found.recommended() == "diffpool"
    found = study(dmpnn=REFERENCE, diffpool=LOWER, rings=near, seconds=seconds)
    assert found.recommended() == "diffpool"
    unknown = dict.fromkeys(seconds)
    found = study(dmpnn=near, diffpool=LOWER, seconds=unknown)
    assert findings(found)[-1] == "Begin with diffpool: the best."


def test_one_split_decides_nothing():
    found = study(dmpnn=[0.5], diffpool=[0.4], seconds={"dmpnn": 1.0, "diffpool": 2.0})
    assert findings(found)[0] == (
        "diffpool: m 20.0 % lower than dmpnn, better on 1 of 1; one split says nothing about "
        "others."
    )
    assert found.recommended() == "diffpool"  # and not the quicker one
    assert findings(found)[-1] == "Begin with diffpool: the best here, but 1 split cannot tell."
    assert cells(markdown(found).splitlines()[3])[2:5] == ["-20.0 %", "-", "1 of 1"]


def test_the_table_has_a_line_for_each_setting():
    head, _, first, second = map(
        cells, markdown(study(dmpnn=REFERENCE, diffpool=LOWER)).splitlines()
    )
    assert head[:3] == ["setting", "m", "against dmpnn"]
    assert head[3:] == ["95 % interval", "better on", "parameters", "s / epoch"]
    assert second[:3] == ["diffpool", "0.4240 ± 0.0207", "-8.2 %"]
    assert second[4:] == ["5 of 5", "1,000", "1.00"]
    low, high = second[3].removesuffix(" %").split(" % to ")
    assert float(low) < -8.2 < float(high) < 0
    assert first[2:5] == ["", "", ""]


def test_what_is_written_can_be_read_again(tmp_path):
    found = study(dmpnn=[0.5], diffpool=[0.4])  # whose interval is no number
    options = {"dmpnn": ["--diffpool-levels", "0"], "diffpool": []}
    write(found, options, tmp_path, machine={"chip": "x"})

    record = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert record["machine"] == {"chip": "x"} and record["recommended"] == "diffpool"
    assert record["settings"]["dmpnn"]["options"] == ["--diffpool-levels", "0"]
    assert record["settings"]["diffpool"]["against"]["low"] is None
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert (
        lines[0] == "setting,split,m,parameters,seconds_per_epoch"
        and lines[2][:13] == "diffpool,0,0."
    )
    assert (tmp_path / "results.md").read_text().startswith(markdown(found))
    draw(study(dmpnn=REFERENCE, diffpool=LOWER), tmp_path / "again.png")
    for name in ("results.png", "again.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

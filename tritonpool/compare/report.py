"""The findings of ``tritonpool compare`` in words, as a table and as a picture."""

from __future__ import annotations

import csv
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tritonpool.compare.paired import Effect, effect
from tritonpool.markdown import markdown_table
from tritonpool.plots import save

__all__ = ["Study", "Trained", "draw", "findings", "markdown", "text", "write"]

SAVING = 0.1  # of the time of an epoch: less is no reason to leave the best
ENOUGH = 3  # splits: fewer tell hardly anything apart, so that time alone would decide


@dataclass(frozen=True)
class Trained:
    """What one training gave.

    Attributes
    ----------
    test : dict of str to float
        each metric on the test part, with the weights of the best epoch
    seconds_per_epoch : float | None
        the median; None if no epoch was left when the training was resumed
    parameters, train_molecules, test_molecules : int
        of the model, and of its split
    """

    test: dict[str, float]
    seconds_per_epoch: float | None
    parameters: int
    train_molecules: int
    test_molecules: int


@dataclass(frozen=True)
class Study:
    """All trainings of a comparison.

    Attributes
    ----------
    rows : dict of str to list of Trained
        of each setting, in the same order of splits; the first is what others are compared with
    controls, learned : tuple of str
        those of the settings whose clusters are not learned, and are; the others have none
    metric : str
        what decides
    higher_is_better : bool
        of that metric
    """

    rows: Mapping[str, Sequence[Trained]]
    controls: tuple[str, ...]
    learned: tuple[str, ...]
    metric: str
    higher_is_better: bool

    @property
    def names(self) -> list[str]:
        return list(self.rows)

    @property
    def splits(self) -> int:
        return len(self.rows[self.names[0]])

    def values(self, name: str) -> list[float]:
        """The metric of a setting on each split."""
        return [row.test[self.metric] for row in self.rows[name]]

    def mean(self, name: str) -> float:
        return statistics.mean(self.values(name))

    def typical(self, name: str) -> float:
        """The mean whose changes are compared: of errors the geometric one."""
        if self.higher_is_better or min(map(min, map(self.values, self._known(self.names)))) <= 0:
            return self.mean(name)
        return statistics.geometric_mean(self.values(name))

    def _known(self, names: Sequence[str]) -> list[str]:
        """Those whose metric is a number on every split, as it is not where a loss diverged."""
        return [name for name in names if math.isfinite(self.mean(name))]

    def effect(self, name: str, other: str) -> Effect:
        """A setting against another."""
        first = self.rows[other][0]
        return effect(
            self.values(name),
            self.values(other),
            first.test_molecules / first.train_molecules,
            higher_is_better=self.higher_is_better,
        )

    def seconds(self, name: str) -> float:
        """Median time of an epoch; NaN if it is not known."""
        known = [row.seconds_per_epoch for row in self.rows[name] if row.seconds_per_epoch]
        return statistics.median(known) if known else math.nan

    def best(self, names: Sequence[str]) -> str | None:
        """The setting with the best mean, of those named that have one."""
        pick = max if self.higher_is_better else min
        return pick(self._known(names), key=self.typical, default=None)

    def recommended(self) -> str | None:
        """Of those that the splits do not tell apart from the best: the best whose epoch is about
        as short as the shortest; of fewer than three splits the best. None if no setting has a
        number on every split."""
        if (best := self.best(self.names)) is None or self.splits < ENOUGH:
            return best
        as_good = [n for n in self._known(self.names) if n == best or not self.effect(best, n).sure]
        # a time that is not known is no reason
        shortest = min((t for t in map(self.seconds, as_good) if t == t), default=math.nan)
        quick = [name for name in as_good if self.seconds(name) <= (1 + SAVING) * shortest]
        return self.best(quick) or best


def _amount(value: float, found: Effect) -> str:
    """A change without its sign."""
    return f"{100 * abs(value):.1f} %" if found.relative else f"{abs(value):.3g}"


def _signed(value: float, found: Effect) -> str:
    return ("-" if value < 0 else "+") + _amount(value, found)


def markdown(study: Study) -> str:
    """A line for each setting: metric, change from the first with its interval, on how many splits
    it is better, parameters and time."""
    first = study.names[0]
    cells = [
        ["setting", study.metric, f"against {first}", "95 % interval", "better on"]
        + ["parameters", "s / epoch"]
    ]
    for name in study.names:
        values, found = study.values(name), study.effect(name, first)
        finite = math.isfinite(study.mean(name))
        spread = f" ± {statistics.stdev(values):.4f}" if finite and len(values) > 1 else ""
        compared = ["", "", ""]
        if name != first:
            ends = f"{_signed(found.low, found)} to {_signed(found.high, found)}"
            compared = [
                "-" if math.isnan(found.change) else _signed(found.change, found),
                "-" if math.isnan(found.low) else ends,
                f"{found.better} of {found.splits}",
            ]
        seconds = study.seconds(name)
        cells.append(
            [name, f"{study.mean(name):.4f}{spread}", *compared]
            + [f"{study.rows[name][0].parameters:,}"]
            + ["-" if math.isnan(seconds) else f"{seconds:.2f}"]
        )
    return markdown_table(cells)


def _sentence(study: Study, name: str, other: str) -> str:
    """One setting against another, and whether the splits tell them apart."""
    for each in (name, other):
        for i, value in enumerate(study.values(each)):
            if not math.isfinite(value):
                return (
                    f"{name}: cannot be compared with {other}, because {study.metric} of {each} is "
                    f"{value} on split {i}."
                )
    found = study.effect(name, other)
    direction = "higher" if found.change > 0 else "lower"
    text = (
        f"{name}: {study.metric} {_amount(found.change, found)} {direction} than {other}, better "
        f"on {found.better} of {found.splits}"
    )
    if math.isnan(found.low):
        return f"{text}; one split says nothing about others."
    text += f", interval {_signed(found.low, found)} to {_signed(found.high, found)}"
    return f"{text}." if found.sure else f"{text}: not told apart."


def findings(study: Study) -> list[str]:
    """What the numbers say, a sentence each: every setting against the first, learned clusters
    against the best control, and what to begin with."""
    first, *others = study.names
    lines = [_sentence(study, name, first) for name in others]
    own, control = study.best(study.learned), study.best(study.controls)
    if own and control:
        found = study.effect(own, control)
        if control != first:  # which is said already
            lines.append(_sentence(study, own, control))
        if not (found.sure and found.gain):
            lines.append(
                f"So no gain of learned clusters over {control}, whose clusters are not learned, "
                f"is shown here."
            )
    best, chosen = study.best(study.names), study.recommended()
    if chosen is None:
        return [*lines, f"No setting has a number for {study.metric} on every split."]
    reason = "the best"
    if study.splits < ENOUGH:
        reason += f" here, but {study.splits} split{'s' * (study.splits > 1)} cannot tell"
    if chosen != best:
        reason = f"not told apart from the best, {best}"
        if study.seconds(best) == study.seconds(best):
            times = study.seconds(chosen) / study.seconds(best)
            reason += f", and an epoch takes {times:.2f} times as long"
    lines.append(f"Begin with {chosen}: {reason}.")
    return lines


def text(study: Study, options: Mapping[str, Sequence[str]]) -> str:
    """The table, what it says, and the options of the setting to begin with."""
    lines = [markdown(study), *findings(study)]
    if own := options.get(study.recommended()):
        lines.append(f"Its options: {shlex.join(own)}")
    return "\n".join(lines) + "\n"


def draw(study: Study, path: Path) -> None:
    """Changes from the first setting with their intervals, as PNG."""
    first, *others = study.names
    effects = [study.effect(name, first) for name in others]
    relative = all(found.relative for found in effects)
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(others)), layout="constrained")
    axes = figure.subplots()
    middle = [found.change for found in effects]
    below = [found.change - found.low for found in effects]
    above = [found.high - found.change for found in effects]
    axes.errorbar(middle, range(len(others)), xerr=[below, above], fmt="o")
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(others)), others, parse_math=False)
    axes.set_ylim(len(others) - 0.5, -0.5)
    if relative:
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(
        f"test {study.metric} against {first}, 95 % interval, {study.splits} splits "
        f"({'higher' if study.higher_is_better else 'lower'} is better)",
        parse_math=False,
    )
    save(figure, path)


def _plain(found: object) -> object:
    """Numbers for JSON, which has no NaN and no infinity."""
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    return None if isinstance(found, float) and not math.isfinite(found) else found


def write(study: Study, options: Mapping[str, Sequence[str]], folder: Path, **more: object) -> None:
    """Write tables, JSON and picture to a folder, with the options of each setting; what else the
    JSON should hold is given by name."""
    first = study.names[0]
    record = {
        "splits": study.splits,
        "against": first,
        **more,
        "metric": study.metric,
        "settings": {
            name: {
                "options": list(words),
                "trainings": [_plain(asdict(row)) for row in study.rows[name]],
                "against": None if name == first else _plain(asdict(study.effect(name, first))),
            }
            for name, words in options.items()
        },
        "findings": findings(study),
        "recommended": study.recommended(),
    }
    (folder / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "results.md").write_text(text(study, options))
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        metrics = list(study.rows[first][0].test)
        writer.writerow(["setting", "split", *metrics, "parameters", "seconds_per_epoch"])
        for name in study.names:
            for i, row in enumerate(study.rows[name]):
                values = [row.test[metric] for metric in metrics]
                writer.writerow([name, i, *values, row.parameters, row.seconds_per_epoch])
    draw(study, folder / "results.png")

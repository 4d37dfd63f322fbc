"""A search of ``tritonpool hpopt`` from beginning to end, and what is written and printed of it."""

from __future__ import annotations

import copy
import csv
import logging
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from filelock import FileLock, Timeout

from tritonpool.cli.checks import output_folder
from tritonpool.cli.earlier_calls import (
    Kind,
    check_folder,
    digest,
    splits_in,
    whole,
    write_config,
    write_folder,
)
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.fit import monitored
from tritonpool.cli.loaders import prepare
from tritonpool.cli.models import make_model, try_out
from tritonpool.cli.processes import side_by_side
from tritonpool.cli.remaining import Remaining
from tritonpool.cli.search_space import distributions
from tritonpool.cli.splits import check_metrics, draws_splits, undecided
from tritonpool.cli.study import Search, Tried, calls, check_study, mark_study, tried
from tritonpool.cli.trials import checkpoint_of, forget_models, run_trial
from tritonpool.markdown import markdown_table

__all__ = ["begin", "run", "text"]

logger = logging.getLogger(__name__)

FOLDER = Kind("search.json", "--hpopt-save-dir", "name another folder")
SHOWN = 5  # of the best trials


@contextmanager
def begin(search: Search) -> Iterator[None]:
    """Check data and model, find what decides, compare all with an earlier call, and make the
    folder, which is this call's alone within the context.

    Raises
    ------
    UsageError
        If options contradict each other or those of an earlier call.
    InputError
        If a file cannot be used, or another call searches in the same folder.
    """
    args, parser = search.options({})
    args.output_dir = search.folder
    given = copy.deepcopy(args)  # building a model changes some options
    if "batch_size" in search.names:
        (sizes,) = distributions(["batch_size"], args.epochs).values()
        given.batch_size = min(sizes.choices)  # larger ones may fail
    first = prepare(given, *next(iter(search.splits)))
    if first.val_loader is None:
        raise UsageError("argument --split-sizes: needs a validation part to choose by")
    model = make_model(given, first, 0)
    check_metrics(
        search.splits, [metric.alias for metric in model.metrics[:-1]], args.target_columns
    )
    if found := undecided(search.splits, args.tracking_metric):
        raise InputError(found)
    try_out(model, first)
    search.monitor, search.mode = monitored(given, first, model)
    data, scratch = digest(args), search.splits.folder
    check_folder(args, parser, data, scratch, splits_in(scratch), FOLDER)
    with output_folder(search.folder, FOLDER.option):
        lock = FileLock(search.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"another `tritonpool hpopt` searches in {str(search.folder)!r}; wait for it, or "
                f"name another folder"
            ) from error
    try:
        check_study(search)
        write_folder(args, parser, data, search.splits, FOLDER)
        mark_study(search)
        yield
    finally:
        lock.release()


def run(search: Search) -> list[Tried]:
    """Train what is not there yet, and return all trials, the best first; what is found so far is
    written after each."""
    total, found = search.args.num_samples, _by_value(tried(search), search.mode)
    written = _write(found, search)  # a call that was killed may not have come to it
    left = max(total - len(found), 0)
    jobs, remaining = min(search.args.jobs, left), Remaining(left)
    with closing(side_by_side(run_trial, calls(search, total), jobs)) as ended:
        for done, (_, name) in enumerate(ended, 1):
            if name is None:
                search.exhausted = True
                continue
            found = _by_value(tried(search), search.mode)
            written = _write(found, search, written)
            this = next(row for row in found if row.folder == name)
            best = f"best {_outcome(found[0], search)} ({found[0].folder})"
            print(
                f"{len(found)} of {total}: {name}: {_outcome(this, search)}, "
                f"{best if found[0].value is not None else 'none finished yet'}"
                f"{remaining.words(done)}: {this.options}",
                flush=True,
            )
    if search.exhausted:
        logger.warning("there is nothing else to try with --search-parameter-keywords")
    if search.args.remove_checkpoints:
        forget_models(search.folder / found[0].folder, checkpoints_only=True)
    return found


def _by_value(found: Sequence[Tried], mode: str) -> list[Tried]:
    """The best first, those without a value last."""
    sign = 1 if mode == "min" else -1
    return sorted(found, key=lambda row: (row.value is None, sign * (row.value or 0.0)))


def _outcome(row: Tried, search: Search) -> str:
    if row.value is not None:
        return f"{search.monitor} {row.value:.4g}"
    return "stopped early" if row.state == "pruned" else f"failed ({row.error})"


def _write(found: Sequence[Tried], search: Search, written: str | None = None) -> str | None:
    """Write all trials as a table, and the best as a configuration file and a model, each whole or
    not at all; of the others no model is kept.

    Parameters
    ----------
    found
        The trials, the best first.
    search
        What they share.
    written
        The folder of the trial whose files are there already and need not be copied again.

    Returns
    -------
    str or None
        That of the trial whose files are there now; None before one was complete.
    """
    if not found:
        return None
    best, *others = found
    names = list(search.names)
    with whole(search.folder / "all_progress.csv") as path, path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", search.monitor, "seconds", *names, "options", "error"])
        for row in found:
            values = [_number(row.values.get(name, "")) for name in names]
            value = "" if row.value is None else row.value
            table.writerow(
                [row.folder, row.state, value, f"{row.seconds:.1f}", *values, row.options]
                + [row.error]
            )
    if best.value is not None and best.folder != written:
        with whole(search.folder / "best_config.toml") as path:
            write_config(*search.options(best.values), path.parent, path.name)
        model = checkpoint_of(search.folder / best.folder)
        if model.is_file():  # not after --remove-checkpoints, but then it was copied before
            with whole(search.folder / "best_checkpoint.ckpt") as path:
                shutil.copyfile(model, path)
    for row in others:
        forget_models(search.folder / row.folder)
    return None if best.value is None else best.folder


def _number(value: object) -> object:
    """Without the digits that steps of 0.05 bring."""
    return f"{value:.6g}" if isinstance(value, float) else value


def text(found: Sequence[Tried], search: Search) -> str:
    """The best trials as a table, and how to go on with what was found."""
    cells = [["trial", search.monitor, "seconds", "options"]]
    cells += [
        [row.folder, f"{row.value:.4g}", f"{row.seconds:.0f}", row.options]
        for row in found[:SHOWN]
        if row.value is not None
    ]
    counts = {state: sum(row.state == state for row in found) for state in ("pruned", "fail")}
    more = f", {counts['pruned']} stopped early" if counts["pruned"] else ""
    more += f", {counts['fail']} failed" if counts["fail"] else ""
    config = f"--config-path {shlex.quote(str(search.folder / 'best_config.toml'))}"
    number = "1 trial" if len(found) == 1 else f"{len(found)} trials"
    table = search.folder / "all_progress.csv"
    lines = f"{markdown_table(cells)}\n{number}{more}, in {table}.\n"
    if not any(part and len(part[0]) for part in search.splits.test):
        return lines
    args = search.args
    # splits that another seed makes others of
    drawn = draws_splits(args) and len(args.data_path) == 1
    drawn = drawn and args.split.upper() != "KENNARD_STONE"
    new = f" --num-replicates 5 --data-seed {args.data_seed + args.num_replicates}" if drawn else ""
    return (
        f"{lines}"
        "The best of many looks better on the validation part than it is. On the test part, which "
        "was not looked at:\n"
        f"  tritonpool train {config}\n"
        f"and beside D-MPNN{', on other splits' if drawn else ''}:\n"
        f"  tritonpool compare {config}{new}\n"
    )

"""The options that ``tritonpool train`` has beyond those of ``chemprop train``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from tritonpool.chemprop.settings import (
    ASSIGNMENTS,
    ENCODERS,
    NORMALIZATIONS,
    PRIORS,
    READOUTS,
    DiffPoolSettings,
    default_max_clusters,
)
from tritonpool.cli.errors import UsageError
from tritonpool.cli.ranges import fraction, non_negative, positive, whole_number

__all__ = [
    "DIFFPOOL_FIELDS",
    "PRECISIONS",
    "add_options",
    "flag",
    "from_file",
    "given_options",
    "resolve_settings",
    "set_on_purpose",
    "settings_from",
    "tell_of_aggregation",
    "without_effect",
]

logger = logging.getLogger(__name__)

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
DEFAULTS = DiffPoolSettings()

# attribute of the parsed options -> field of DiffPoolSettings; --diffpool-levels stands apart
# because 0 switches all others off
DIFFPOOL_FIELDS = {
    "diffpool_ratio": "ratio",
    "diffpool_max_clusters": "max_clusters",
    "diffpool_assignment": "assignment",
    "diffpool_readout": "readout",
    "diffpool_temperature": "temperature",
    "diffpool_top_k": "top_k",
    "diffpool_positions": "positions",
    "diffpool_prior": "prior",
    "diffpool_normalize": "normalize",
    "diffpool_cluster_features": "cluster_features",
    "diffpool_gate": "gate",
    "diffpool_encoder": "coarse_encoder",
    "diffpool_hidden_dim": "coarse_hidden",
    "diffpool_depth": "coarse_depth",
    "diffpool_link_weight": "link_weight",
    "diffpool_entropy_weight": "entropy_weight",
}

# what has no effect where nothing scores atoms, and nothing scores anything
OF_FIRST_SCORES = ("diffpool_positions", "diffpool_prior")
OF_SCORES = (
    "diffpool_ratio",
    "diffpool_temperature",
    "diffpool_top_k",
    "diffpool_link_weight",
    "diffpool_entropy_weight",
)

# what decides which of the others have an effect
CHOICES = (
    "diffpool_levels",
    "diffpool_assignment",
    "diffpool_readout",
    "checkpoint",
    "model_frzn",
    "from_foundation",
)

MOST_POSITIONS = 256
MOST_CLUSTERS = 4096  # of one molecule: its coarse graph has their square of edges


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add our options to the parser of ``chemprop train``."""
    group = parser.add_argument_group("DiffPool args")
    group.add_argument(
        "--diffpool-levels",
        type=whole_number(0),
        default=DEFAULTS.levels,
        help="how often the graph is pooled (default: %(default)s); 0 trains chemprop's plain "
        "D-MPNN",
    )
    group.add_argument(
        "--diffpool-ratio",
        type=fraction,
        default=DEFAULTS.ratio,
        help="clusters per atom, or per cluster of the level before (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-max-clusters",
        nargs="+",
        type=whole_number(1, MOST_CLUSTERS),
        help="the most clusters of one molecule, one number or one for each level (default: "
        f"{default_max_clusters('mlp')}, with rings {default_max_clusters('rings')})",
    )
    group.add_argument(
        "--diffpool-assignment",
        choices=ASSIGNMENTS,
        default=DEFAULTS.assignment,
        help="what assigns atoms to clusters: a network, of which mlp sees the state of the atom, "
        "gnn those of its neighbours too; or rings, always one cluster for each ring system and "
        "each piece between ring systems (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-readout",
        choices=READOUTS,
        default=DEFAULTS.readout,
        help="what the predictor sees: all levels concatenated or the last one, each aggregated "
        "as --aggregation says (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-temperature",
        type=positive,
        default=DEFAULTS.temperature,
        help="what the scores are divided by before the softmax; below 1 atoms are first assigned "
        "more sharply (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-top-k",
        type=whole_number(2),
        help="the most clusters that one atom has shares in, at least 2; clusters that no bond "
        "joins are then not joined in the coarse graph, which is cheaper (default: all clusters of "
        "its molecule, and all joined)",
    )
    group.add_argument(
        "--diffpool-positions",
        type=whole_number(0, MOST_POSITIONS),
        default=DEFAULTS.positions,
        help="how many Laplacian positional encodings the assignment network sees "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-prior",
        choices=PRIORS,
        default=DEFAULTS.prior,
        help="which clusters the training starts from: rings prefers ring systems and the pieces "
        "between them; it makes a prediction depend on the order of the atoms "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-normalize",
        choices=NORMALIZATIONS,
        default=DEFAULTS.normalize,
        help="what is not left as a sum: the weights of the bonds that reach a cluster, or both "
        "these and the states in it (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-cluster-features",
        action="store_true",
        help="show the coarse encoder the size of each cluster and the bonds inside it",
    )
    group.add_argument(
        "--diffpool-gate",
        action="store_true",
        help="start training with the coarse levels switched off by learned factors",
    )
    group.add_argument(
        "--diffpool-encoder",
        choices=ENCODERS,
        default=DEFAULTS.coarse_encoder,
        help="what sends messages on the coarse graphs: bond is a D-MPNN, atom is cheaper, above "
        "all at large ratios (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-hidden-dim",
        type=whole_number(1),
        help="hidden width on the coarse graphs (default: that of --message-hidden-dim)",
    )
    group.add_argument(
        "--diffpool-depth",
        type=whole_number(1),
        default=DEFAULTS.coarse_depth,
        help="message-passing steps on each coarse graph (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-link-weight",
        type=non_negative,
        default=DEFAULTS.link_weight,
        help="weight of the link loss (default: %(default)s)",
    )
    group.add_argument(
        "--diffpool-entropy-weight",
        type=non_negative,
        default=DEFAULTS.entropy_weight,
        help="weight of the entropy loss (default: %(default)s)",
    )
    more = parser.add_argument_group("tritonpool args")
    more.add_argument(
        "--train-size",
        type=whole_number(1),
        help="train on this many molecules, drawn from the training part after the split with "
        "--data-seed; validation and test parts stay as they are",
    )
    more.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="numbers to compute with, passed to the lightning ``Trainer()`` (default: "
        "%(default)s); 16-mixed needs a GPU",
    )
    more.add_argument(
        "--resume",
        action="store_true",
        help="go on with the training in --output-dir, from its last checkpoints and with its "
        "config.toml and splits.json; other options may be repeated but not changed",
    )
    return parser


def given_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The ``diffpool_*`` attributes that were set on purpose: by the words, and by a configuration
    file unless the words choose another pooling, which what stands there need not fit."""
    names = ("diffpool_levels", *DIFFPOOL_FIELDS)
    found = set_on_purpose(parser, words, (*names, *CHOICES))
    given = [name for name in names if name in found]
    filed = from_file(parser)
    if (found & set(CHOICES)) - filed:
        return [name for name in given if name not in filed]
    return given


def set_on_purpose(
    parser: argparse.ArgumentParser, words: Sequence[str], names: Sequence[str]
) -> set[str]:
    """Those of the attributes ``names`` that the words or a configuration file set, be it to their
    defaults."""
    # argparse fills in a default only where the namespace has nothing yet
    parsed = parser.parse_args(words, argparse.Namespace(**dict.fromkeys(names)))
    return {name for name in names if getattr(parsed, name) is not None}


def from_file(parser: argparse.ArgumentParser) -> set[str]:
    """The attributes that a configuration file set when the parser was last used."""
    sources = parser.get_source_to_settings_dict().items()
    files = [settings for source, settings in sources if source.startswith("config_file")]
    return {action.dest for settings in files for action, _ in settings.values() if action}


def tell_of_aggregation(args: argparse.Namespace) -> None:
    """Name chemprop's default if nobody chose it (docs/accuracy.md has what it costs);
    ``args.chosen`` holds what was set on purpose."""
    loaded = args.from_foundation or args.checkpoint or args.model_frzn
    if "aggregation" not in args.chosen and not loaded:
        logger.info(
            "--aggregation is %s, chemprop's default; for what does not grow with the molecule, as "
            "a band gap, mean had a lower error",
            args.aggregation,
        )


def resolve_settings(args: argparse.Namespace, own_pooling: str | None) -> None:
    """Set those of ``--diffpool-*`` to None that have no effect, and check those that depend on
    each other, in place.

    Parameters
    ----------
    args
        Options as `TrainSubcommand.parse` returns them.
    own_pooling
        The option that loads a model whose pooling is fixed already (and its value), or None.

    Raises
    ------
    UsageError
        If an option was given that cannot have an effect, or not for the number of levels.
    """
    given = args.given_diffpool
    if own_pooling is not None:
        reason, allowed, idle = own_pooling, (), ("diffpool_levels", *DIFFPOOL_FIELDS)
        reason += ", which keeps the pooling it was saved with"
    elif args.diffpool_levels == 0:
        reason, allowed = "--diffpool-levels 0", ("diffpool_levels",)
        idle = without_effect(0, args.diffpool_assignment)
        reason += ", which trains without DiffPool"
    else:
        if args.diffpool_gate and args.diffpool_readout == "last":
            if "diffpool_gate" in given:
                raise UsageError(
                    "argument --diffpool-gate: not allowed with --diffpool-readout last, which "
                    "reads out nothing but what the gate closes"
                )
            args.diffpool_gate = False
        args.diffpool_max_clusters = _of_levels(
            args.diffpool_max_clusters, args.diffpool_levels, "diffpool_max_clusters" in given
        )
        if args.diffpool_assignment != "rings":
            return
        idle = without_effect(args.diffpool_levels, args.diffpool_assignment)
        reason, allowed = "--diffpool-assignment rings", set(given) - set(idle)
        reason += ", which has no scores for atoms"
    for name in given:
        if name not in allowed:
            raise UsageError(f"argument {flag(name)}: not allowed with {reason}")
    for name in idle:
        setattr(args, name, None)


def without_effect(levels: int, assignment: str) -> tuple[str, ...]:
    """The ``diffpool_*`` attributes that do nothing with this many levels and this assignment."""
    if levels == 0:
        return tuple(DIFFPOOL_FIELDS)
    if assignment == "rings":
        return OF_FIRST_SCORES + (OF_SCORES if levels == 1 else ())
    return ()


def _of_levels(most: list[int] | None, levels: int, given: bool) -> int | list[int] | None:
    """The most clusters as one number, or one for each level."""
    if most is None or len(most) == levels > 1:
        return most
    if len(most) == 1:
        return most[0]
    if given:
        raise UsageError(
            "argument --diffpool-max-clusters: needs one number, or one for each level "
            f"(--diffpool-levels, {levels}), got {len(most)}"
        )
    return None  # a config file's, which the words have given other levels


def settings_from(args: argparse.Namespace) -> DiffPoolSettings | None:
    """The settings of the DiffPool levels, or None for a model without or with its own."""
    if not args.diffpool_levels:
        return None
    values = {field: getattr(args, name) for name, field in DIFFPOOL_FIELDS.items()}
    values = {field: value for field, value in values.items() if value is not None}
    return DiffPoolSettings(levels=args.diffpool_levels, **values)


def flag(name: str) -> str:
    """``--diffpool-ratio`` from ``diffpool_ratio``."""
    return "--" + name.replace("_", "-")

"""What ``tritonpool hpopt`` searches, and the options that this becomes."""

from argparse import Namespace

import pytest
from cli_tools import train, write_table

from tritonpool.cli.errors import UsageError
from tritonpool.cli.search_space import BUNDLES, PARAMETERS, distributions, searched, words


def options(**given) -> Namespace:
    found = {
        "search_parameter_keywords": ["basic", "diffpool"],
        "from_foundation": None,
        "checkpoint": None,
        "model_frzn": None,
        "diffpool_levels": 1,
        "diffpool_assignment": "mlp",
        "epochs": 50,
        "aggregation": "mean",
        "max_lr": 1e-3,
        "ffn_hidden_dim": [300],
    }
    return Namespace(**{**found, **given})


def test_what_is_searched():
    both = [*BUNDLES["basic"], *BUNDLES["diffpool"]]
    assert searched(options(), ()) == both
    settled = searched(options(), ("depth", "diffpool_ratio", "init_lr"))
    assert settled == [name for name in both if name not in ("depth", "diffpool_ratio")]
    assert searched(options(diffpool_levels=0), ()) == list(BUNDLES["basic"])
    rings = searched(options(diffpool_assignment="rings"), ("diffpool_assignment",))
    assert set(both) - set(rings) == {"diffpool_assignment", "diffpool_ratio"}
    everything = options(search_parameter_keywords=["all"])
    assert searched(everything, ()) == list(PARAMETERS)
    short = options(search_parameter_keywords=["learning_rate"], epochs=5)
    assert searched(short, ()) == ["max_lr", "init_lr_ratio", "final_lr_ratio"]
    widths = {"ffn_hidden_dim": [300, 200]}
    assert searched(options(**widths), ()) == both  # these are searched too
    assert "ffn_num_layers" not in searched(options(**widths), ("ffn_hidden_dim",))
    levels = options(search_parameter_keywords=["diffpool_levels", "diffpool"], diffpool_levels=0)
    assert set(searched(levels, ())) == {"diffpool_levels", *BUNDLES["diffpool"]}
    foundation = searched(options(from_foundation="CheMeleon"), ())
    assert not {"depth", "dropout", "message_hidden_dim"} & set(foundation)
    assert {"ffn_hidden_dim", "diffpool_ratio"} <= set(foundation)


@pytest.mark.parametrize(
    "keywords, given, chosen, message",
    [
        (["depth"], {}, ["depth"], "depth cannot be searched, because --depth is given"),
        (["init_lr"], {}, ["init_lr"], "nothing is left to search"),
        (["warmup_epochs"], {"epochs": 5}, [], "because that needs --epochs 6 or more"),
        (["diffpool"], {"diffpool_levels": 0}, [], "nothing is left to search"),
        (["diffpool_ratio"], {"diffpool_levels": 0}, [], "trains without DiffPool"),
        (["diffpool_ratio"], {"diffpool_assignment": "rings"}, [], "has no scores for atoms"),
        (["depth"], {"from_foundation": "CheMeleon"}, [], "--from-foundation brings its own"),
    ],
)
def test_what_cannot_be_searched(keywords, given, chosen, message):
    with pytest.raises(UsageError, match=message):
        searched(options(search_parameter_keywords=keywords, **given), chosen)


def test_every_parameter_becomes_options_that_train_takes(tmp_path):
    """With the least and the most of every range, one after the other."""
    pytest.importorskip("optuna")
    data = write_table(tmp_path / "data.csv", 20)
    small = {"ffn_hidden_dim": 8, "message_hidden_dim": 8, "diffpool_hidden_dim": 8}
    for i, place in enumerate((0, -1)):
        values = {}
        for name, range_ in distributions(PARAMETERS, epochs=6).items():
            ends = getattr(range_, "choices", None) or (range_.low, range_.high)
            values[name] = small.get(name, ends[place])
        base = options(aggregation="norm", diffpool_levels=2)
        given = words(values, base)
        assert ("--diffpool-ratio" in given) is (values["diffpool_levels"] > 0)
        assert ("--diffpool-positions" in given) is False  # no levels, or rings
        few = ("--epochs", 6, "--accelerator", "cpu", "--batch-size", 16)
        assert train(data, tmp_path / f"out{i}", *given, small=few) == 0


def test_idle_parameters_set_nothing():
    values = {"diffpool_levels": 1, "diffpool_assignment": "rings", "diffpool_ratio": 0.5}
    assert words(values, options()) == ["--diffpool-levels", "1", "--diffpool-assignment", "rings"]
    values = {"aggregation": "mean", "aggregation_norm": 7}
    assert words(values, options()) == ["--aggregation", "mean"]
    assert words({"aggregation_norm": 7}, options(aggregation="norm")) == [
        "--aggregation-norm",
        "7",
    ]
    values = {"max_lr": 0.01, "final_lr_ratio": 0.1}
    assert words(values, options()) == ["--max-lr", "0.01", "--final-lr", "0.001"]

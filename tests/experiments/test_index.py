"""The menu is read from the text of the modules: names, questions, scales, minutes."""

import subprocess
import sys

import pytest

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.experiments import index
from gemma_bench.experiments.index import Experiment, experiments, find


def test_modules_with_presets_are_experiments_and_others_are_not():
    assert "speed_table" in experiments()
    assert not {"speed", "study_table", "index"} & set(experiments())


def test_what_is_read_is_what_the_module_holds():
    for experiment in experiments().values():
        module = experiment.module()
        for scale, minutes in experiment.minutes.items():
            assert isinstance(getattr(module, scale.upper()), module.Config)
            assert minutes is None or minutes == module.MINUTES[scale]
        assert experiment.question in module.__doc__
        assert experiment.question.endswith((".", "?"))


def test_the_menu_imports_no_tensor_library():
    code = (
        "import sys; from gemma_bench.experiments.index import experiments; experiments(); "
        "sys.exit(bool({'torch', 'mlx', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_experiment_or_scale_lists_what_there_is():
    with pytest.raises(BadInputError, match=r"unknown experiment 'spead', expected one of .*speed_table"):
        find("spead")
    with pytest.raises(BadInputError, match=r"unknown scale of speed_table 'full', expected one of fixture, study"):
        find("speed_table").check_scale("full")


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'peft.tuners'", name="peft.tuners")

    monkeypatch.setattr(index, "import_module", missing)
    with pytest.raises(UnavailableError, match=r'pip install "gemma_bench\[train\]"') as caught:
        Experiment("low_rank", "?", {}).module()
    assert caught.value.missing == "peft"

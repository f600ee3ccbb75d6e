"""Configs: the files in `configs/`, settings, stages."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.tiny import run_config
from trainer.errors import ConfigError
from trainer.run_config import RunConfig, ValidationConfig, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
MINIMAL = """
run_dir = "r"
num_steps = 1
model = {path = "m"}
data = {sources = [{name = "a", path = "a.jsonl"}]}
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    config = load_config(path)
    assert config.derived()
    for step in (1, config.num_steps):
        for era in (0, 50):
            config.at(step, era)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem != "demo"], ids=lambda path: path.stem)
def test_every_value_names_its_source(path: Path) -> None:
    """The letters are those that the file's head explains."""
    lines = path.read_text().splitlines()
    head = " ".join(line for line in lines[:6] if line.startswith("#"))
    letters = re.findall(r"(\w+) = ", head)
    assert "ours" in letters
    values = [line for line in lines if "=" in line.partition("#")[0] and not line.endswith("[")]
    assert [line for line in values if not re.search(rf"# ({'|'.join(letters)})\b", line)] == []


def load(tmp_path: Path, text: str, *settings: str) -> RunConfig:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_config(path, settings)


def test_settings_are_toml_values_under_dotted_keys(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "loss.kl_coef=1e-3", "seed=7", "model.path=org/name", "reset.every_steps=5")
    assert (config.loss.kl_coef, config.seed, config.model.path, config.reset.every_steps) == (1e-3, 7, "org/name", 5)


@pytest.mark.parametrize(
    ("text", "settings", "complaint"),
    [
        (MINIMAL, ["loss.kl_coeff=1"], "loss.kl_coeff: Extra inputs"),
        (MINIMAL, ["loss.kl_coef=-1"], "loss.kl_coef: Input should be greater"),
        (MINIMAL, ["loss"], "expected key=value"),
        (MINIMAL, ["data.weights.b=1"], "unknown sources: b"),
        (MINIMAL, ['data.sources=[{name="a", dataset="gcd"}]'], "`dataset` needs `count`"),
        (MINIMAL, ["data.weights.a=0"], "all weights are 0"),
        (MINIMAL, ["model.demo.seed=1"], "either `path` or `demo`"),
        (MINIMAL, ["reset.plateau_evals=4"], "need a .validation"),
        (MINIMAL, ["reset.source=best"], "need a .validation"),
        ("seed = ", [], "config.toml"),
        ("seed = 1", [], "and 3 more"),
    ],
)
def test_a_bad_config_is_one_clear_line(tmp_path: Path, text: str, settings: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load(tmp_path, text, *settings)
    assert "\n" not in str(caught.value)


def test_pass_at_more_than_the_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="pass_at needs at least as many samples"):
        ValidationConfig.model_validate({"sources": [{"name": "a", "path": "a"}], "num_samples": 4, "pass_at": [8]})


def test_a_set_may_have_a_threshold_of_its_own() -> None:
    source = {"sources": [{"name": "a", "path": "a"}], "thresholds": {"a": 0.8}}
    assert ValidationConfig.model_validate(source).thresholds == {"a": 0.8}
    with pytest.raises(ValueError, match="thresholds of unknown sources: b"):
        ValidationConfig.model_validate(source | {"thresholds": {"b": 0.8}})


def test_a_ramp_longer_than_the_completion_is_refused(tmp_path: Path) -> None:
    overlong = {"rule": "soft", "soft_cache_tokens": 6}
    run_config(tmp_path, overlong=overlong, sampling__max_tokens=6)
    with pytest.raises(ValueError, match="soft_cache_tokens must not exceed"):
        run_config(tmp_path, overlong=overlong, sampling__max_tokens=5)


def test_stages_that_are_bad_only_together_are_refused(tmp_path: Path) -> None:
    ceiling = {"name": "watch", "from_step": 2, "set": {"reset.kl_ceiling": 0.1}}
    no_kl = {"name": "free", "from_step": 3, "set": {"loss.kl_coef": 0}}
    staged(tmp_path, ceiling)
    staged(tmp_path, no_kl)
    with pytest.raises(ValueError, match="no KL is measured"):
        staged(tmp_path, ceiling, no_kl)


def staged(tmp_path: Path, *stages: dict[str, Any]) -> RunConfig:
    return run_config(tmp_path, stages=list(stages))


def test_stages_begin_with_their_step_or_era_and_later_ones_win(tmp_path: Path) -> None:
    config = staged(
        tmp_path,
        {"name": "wide", "from_step": 3, "set": {"group_size": 8}},
        {"name": "stop properly", "from_era": 1, "set": {"overlong.rule": "zero", "group_size": 6}},
    )
    assert [config.at(step, 0).group_size for step in (1, 2, 3, 4)] == [4, 4, 8, 8]
    assert [config.at(2, era).overlong.rule for era in (0, 1, 2)] == ["none", "zero", "zero"]
    assert config.at(3, 1).group_size == 6
    assert config.at(1, 0) is config


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        ({"from_step": 3, "set": {"seed": 1}}, "a stage cannot set seed"),
        ({"from_step": 3, "set": {"data.sources": []}}, "a stage cannot set data.sources"),
        ({"from_step": 3, "set": {"sampling.max_prompt_tokens": 9}}, "a stage cannot set sampling.max_prompt_tokens"),
        ({"from_step": 3, "set": {"sampling": {"max_tokens": 9}}}, "a stage cannot set sampling"),
        ({"set": {}}, "either `from_step` or `from_era`"),
        ({"from_step": 3, "set": {"loss.clip_low": 2}}, "stage s: loss.clip_low"),
        ({"from_step": 3, "set": {"loss.kl_coef": 0, "reset.kl_ceiling": 0.1}}, "no KL is measured"),
    ],
)
def test_a_bad_stage_is_refused_before_the_run(tmp_path: Path, stage: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        staged(tmp_path, {"name": "s"} | stage)

"""Configuration trees: what is accepted, what is refused and how."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from impasto.aurora.config import AuroraConfig, GeneratorConfig
from impasto.aurora.presets import PRESETS
from impasto.config import ConfigError, diff, from_dict, override, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    size: int
    name: str = "x"
    sides: tuple[int, ...] = (1, 2)
    table: dict[int, int] | int = field(default_factory=lambda: {4: 1})
    maybe: int | None = None
    flag: bool = False
    inner: Inner = Inner()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = PRESETS[name].build()
    assert from_dict(AuroraConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert diff(config, config) == []


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("size=7", "size", 7),
        ("name=hello", "name", "hello"),
        ("sides=4,8", "sides", (4, 8)),
        ("sides=[4]", "sides", (4,)),
        ("sides=4", "sides", (4,)),
        ("table=3", "table", 3),
        ("table.4=3", "table", {4: 3}),
        ('table={"8": 2}', "table", {8: 2}),
        ("maybe=null", "maybe", None),
        ("maybe=3", "maybe", 3),
        ("flag=true", "flag", True),
        ("flag=True", "flag", True),
        ("inner.rate=1", "inner", Inner(rate=1.0)),
        ("inner.rate=1e-3", "inner", Inner(rate=0.001)),
        ("inner.kind=b", "inner", Inner(kind="b")),
    ],
)
def test_overrides(assignment, path, value):
    assert getattr(override(Outer(size=1), [assignment]), path) == value


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("siz=1", "unknown configuration key 'siz' in 'siz'; did you mean 'size'"),
        ("inner.rat=1", "did you mean 'rate'"),
        ("inner.kind=c", "inner.kind='c' is not a choice"),
        ("size=big", "size='big' should be of type int"),
        ("size=1.5", "size=1.5 should be of type int"),
        ("size=true", "size=True should be of type int"),
        ("flag=1", "flag=1 should be of type bool"),
        ("size.x=1", "'size' is a single value"),
        ("table.four=1", "key 'four' should be of type int"),
        ("inner=3", "should be a table of settings"),
        ("size", "write path.to.field=value"),
    ],
)
def test_bad_overrides_say_what_is_wrong_in_one_line(assignment, message):
    with pytest.raises(ConfigError, match=message) as error:
        override(Outer(size=1), [assignment])
    assert "\n" not in str(error.value)


def test_missing_keys_are_named():
    with pytest.raises(ConfigError, match="missing configuration key 'size'"):
        from_dict(Outer, {})


def test_one_flag_makes_every_level_dense():
    config = override(AuroraConfig(), ["generator.moe.experts=1"])
    assert config.generator.moe.experts == 1
    lines = diff(AuroraConfig(), config)
    assert "generator.moe.experts: (absent) -> 1" in lines
    assert "generator.moe.experts.16: 8 -> (absent)" in lines and len(lines) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["resolution=48"], "power of two"),
        (["resolution=128"], "has no entry for resolution 128"),
        (["trained_resolutions=4,16"], "should count up from 4"),
        (["trained_resolutions=128"], "should be among"),
        (["attention.skip=false"], "zero_output needs attention.skip"),
        (["context_dim=1020"], "does not divide by 8 heads"),
        (["channel_max=100"], "norm groups"),
        (["moe.experts.8=0"], "at least 1"),
    ],
)
def test_impossible_generators_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        override(GeneratorConfig(), changes)


def test_style_slots_are_the_published_23():
    assert GeneratorConfig().style_slots == 23

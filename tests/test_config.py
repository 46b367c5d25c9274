"""Configuration: what may be said, and one clear line for what may not."""

import random
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from fedkim_core import config as configuration
from fedkim_core.config import compose, split_overrides
from fedkim_core.errors import UserError
from fedkim_core.paths import CONF
from fedkim_core.settings import Config

GROUPS = sorted(
    p.name
    for p in CONF.iterdir()
    # The others are read by the code, not by Hydra.
    if p.is_dir() and p.name not in ("task", "modality", "source", "matrix")
)


def test_defaults_are_a_run() -> None:
    config = compose()
    assert (config.rounds, config.tasks, config.data.kind) == (4, "all", "synthetic")
    assert len(config.cards()) == 12
    assert compose() == config


@pytest.mark.parametrize(
    ("group", "choice"),
    [(g, p.stem) for g in GROUPS for p in sorted((CONF / g).glob("*.yaml"))],
)
def test_every_file_of_every_group_composes(
    group: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKIM_REALDATA", "/data")  # conf/data/public_small.yaml reads it
    more = {
        "folder": ["data.root=/data"],
        "server": ["data.root=/data"],
        "huggingface": ["foundation.model=/fm"],
        "local": ["federation.site=0"],
    }
    config = compose([f"{group}={choice}", *more.get(choice, [])])
    if group not in ("experiment", "evaluation"):
        assert getattr(config, group).name == choice


WRONG = {
    "rounds=0": ("rounds=0", "greater than or equal to 1"),
    "rounds=1.5": ("rounds=1.5", "valid integer"),
    "rounds=true": ("rounds=True", "valid integer"),
    "rounds=many": ("rounds='many'", "valid integer"),
    "seed=-1": ("seed=-1", "greater than or equal to 0"),
    "data.image_size=8": ("data.image_size=8", "greater than or equal to 16"),
    "data.patients=3": ("data.patients=3", "greater than or equal to 10"),
    "extractor.tokens=9": ("extractor.tokens=9", "less than or equal to 8"),
    "extractor.dropout=1": ("extractor.dropout=1", "less than 1"),
    "injector.learning_rate=0": ("injector.learning_rate=0", "greater than 0"),
    "injector.learning_rate=nan": ("injector.learning_rate=nan", "finite"),
    "foundation.compile=fast": ("foundation.compile='fast'", "inductor"),
    "foundation.compile=eager injector.gradient_checkpointing=true": ("not with foundation.comp",),
    "injector.targets=7": ("injector.targets=7", "valid string"),
    "injector.train_encoders=3": ("injector.train_encoders=3", "valid boolean"),
    "strategy.fraction=1.1": ("strategy.fraction=1.1", "less than or equal to 1"),
    "strategy.deadline=0": ("strategy.deadline=0", "greater than 0"),
    "strategy.quorum=0": ("strategy.quorum=0", "greater than 0"),
    "strategy.quorum=1.5": ("strategy.quorum=1.5", "less than or equal to 1"),
    "strategy.norm_bound=0": ("strategy.norm_bound=0", "greater than 0"),
    "strategy.aggregation=mean": (
        "strategy.aggregation.name=mean",
        "one of geometric_median, krum, median",
    ),
    "strategy.aggregation=trimmed_mean": ("strategy.aggregation.share", "trimmed_mean needs it"),
    "strategy=krum strategy.aggregation.selected=0": ("strategy.aggregation.selected=0", "1"),
    "strategy=krum strategy.aggregation.name=median": ("selected=1", "median has no such setting"),
    "strategy.server_optimiser=sgd": ("strategy.server_optimiser.name=sgd", "adam, momentum, none"),
    "extractor.encoders.image.name=resnet": ("extractor.encoders.image.name=resnet", "no such"),
    "foundation.dtype=float64": ("foundation.dtype='float64'", "'bfloat16'"),
    "foundation.source=huggingface": ("foundation", "needs foundation.model"),
    "foundation=huggingface": ("foundation.model", "must be given"),
    "data=folder": ("data.root", "must be given"),
    "data=folder data.root=null": ("data", "needs data.root"),
    "privacy.noise_multiplier=1": ("privacy", "needs privacy.clip_norm"),
    "strategy=best": ("strategy=best", "one of fedadagrad, fedadam,"),
    "strategy=../data/synthetic": ("strategy=../data/synthetic", "one of fedadagrad, fedadam,"),
    "injector=moe": ("injector=moe", "one of fedplug, lora, lora_wide, m3oe, none"),
    "tasks=[x_ray]": ("unknown task 'x_ray'", "lung_opacity"),
    "tasks=mortality": ("tasks='mortality'", "'all'"),
    "tasks=[sepsis]": ("tasks", "nothing would be learned"),
    "task=covid19": ("task=covid19", "tasks=[name,...]"),
    "strategy.learn_rate=1": ("strategy.learn_rate", "did you mean strategy.learning_rate"),
    "+strategy.learn_rate=1": ("strategy.learn_rate=1", "did you mean strategy.learning_rate"),
    "round=3": ("round", "did you mean rounds"),
    "~rounds": ("rounds", "required"),
    "=": ("cannot read override", "="),
    "rounds=[1": ("cannot read override", "[1"),
    "rounds=1,2": ("rounds=1,2", "list"),
    "rounds=${nothing}": ("nothing", "not found"),
    f"{'a' * 300}=1": ("a" * 300, ""),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_one_line_that_names_key_value_and_what_is_allowed(words: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(words.split())
    message = str(caught.value)
    for part in WRONG[words]:
        assert part in message
    assert "\n" not in message


def test_all_mistakes_at_once() -> None:
    with pytest.raises(UserError, match=r"rounds=0: .*; strategy\.fraction=2: "):
        compose(["rounds=0", "strategy.fraction=2"])


keys = st.sampled_from([*configuration._known_keys(), *GROUPS, "hydra", "task", "no.such"])
values = st.one_of(
    st.text(max_size=12),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(["null", "[]", "{}", "[1,2]", "{a:1}", "${seed}", "${x}", "???", "a,b", "1e9"]),
)
override = st.one_of(
    st.text(max_size=20),
    st.builds(
        lambda sign, key, value: f"{sign}{key}={value}",
        st.sampled_from(["", "+", "++", "~"]),
        keys,
        values,
    ),
)


@settings(max_examples=100)
@given(st.lists(override, max_size=3))
def test_whatever_is_typed_is_a_configuration_or_a_clear_mistake(words: list[str]) -> None:
    mistake, config = "", None
    try:
        config = compose(words)
    except UserError as error:
        mistake = str(error)
    assert bool(mistake) == (config is None)
    assert "\n" not in mistake
    if config is not None:
        assert Config.model_validate(config.model_dump()) == config


def hydra_alone(words: list[str]) -> object:
    """The values by Hydra from the beginning, or its words for why there are none."""
    try:
        composed = configuration._hydra(tuple(words), CONF)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, OSError) as error:
        return configuration._hydra_message(error)
    values.pop("experiment", None)
    return values


choice = st.sampled_from(
    [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
)


@settings(max_examples=60)
@given(st.lists(choice, max_size=2), st.lists(override, max_size=2), st.randoms())
def test_what_is_composed_in_part_equals_the_whole(
    choices: list[str], words: list[str], order: random.Random
) -> None:
    words = [*choices, *words, "strategy.local_epochs=7"]
    order.shuffle(words)
    try:
        parsed = configuration._parse(words)
    except UserError:
        return  # refused before anything is composed
    try:
        made = configuration._values(parsed)
    except UserError as error:
        made = str(error)
    assert made == hydra_alone(words)


@settings(max_examples=60)
@given(st.text(max_size=30))
def test_a_string_of_overrides_splits_or_says_why(text: str) -> None:
    mistake, given = "overrides=", []
    try:
        given = split_overrides(text)
    except UserError as error:
        mistake = str(error)
    assert all(isinstance(word, str) for word in given)
    assert mistake.startswith("overrides=")


def test_quotes_as_in_a_shell() -> None:
    assert split_overrides("rounds=5 output='my runs/one'") == ["rounds=5", "output=my runs/one"]
    assert split_overrides("") == []
    with pytest.raises(UserError, match="No closing quotation"):
        split_overrides("output='x")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["experiment=paper"],
        ["experiment=quick", "tasks=[lung_opacity,sepsis]", "output=some where"],
        ["privacy=gaussian", "injector.targets=[q_proj,v_proj]", "strategy.learning_rate=1e-7"],
        ["data=folder", r"data.root='/a b/\${c}'"],
    ],
)
def test_round_trip_through_the_run_folder(words: list[str], tmp_path: Path) -> None:
    config = compose(words)
    configuration.save(config, tmp_path)
    assert configuration.load(tmp_path) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds: [", "cannot be read"),
        (b"- a\n- b\n", "valid dictionary"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "required"),
        (b"rounds: 3\n", "seed: field required"),
    ],
)
def test_a_damaged_configuration_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        configuration.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", [[], ["strategy=fedprox", "output=my runs/one"], ["tasks=[mortality, sepsis]"]]
)
def test_both_sides_compose_the_same(words: list[str]) -> None:
    """The server and the sites share one string and nothing else."""
    assert compose(split_overrides(shlex.join(words))) == compose(words)


def test_groups_apply_in_order_and_the_command_line_wins() -> None:
    assert compose(["strategy=fedprox"]).strategy.proximal_mu > 0
    assert compose(["strategy=fedprox", "strategy.proximal_mu=0.5"]).strategy.proximal_mu == 0.5
    quick = compose(["experiment=quick", "injector.experts=7"])
    assert (quick.foundation.name, quick.injector.experts, quick.rounds) == ("tiny", 7, 2)
    paper = compose(["experiment=paper"])
    assert (paper.extractor.name, paper.rounds, paper.strategy.batch_size) == ("paper", 10, 64)


def leaves(values: dict, prefix: str = "") -> set[str]:
    """Dotted names of the values in a nested dictionary."""
    found: set[str] = set()
    for name, value in values.items():
        own = f"{prefix}{name}"
        found |= leaves(value, f"{own}.") if isinstance(value, dict) else {own}
    return found


SAID_IN_THE_FILE = {("paper", "scaffold")}


@pytest.mark.parametrize("experiment", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_an_experiment_undoes_no_choice(experiment: str) -> None:
    """Its values come last: if it held `experts`, ``injector=fedplug`` would have some."""
    whole = yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text()) or {}
    for group in GROUPS:
        held = leaves(whole.get(group) or {})
        for path in (CONF / group).glob("*.yaml"):
            choice = yaml.safe_load(path.read_text()) or {}
            variant = choice.pop("defaults", None)
            if variant and (experiment, path.stem) not in SAID_IN_THE_FILE:
                assert not held & leaves(choice), path


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel] | None]:
    found: dict[str, type[BaseModel] | None] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found[prefix + name] = inner if nested else None
    return found


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "experiment"])
def test_yaml_and_schema_hold_the_same_settings(group: str) -> None:
    """Every option that the schema explains has its value in a file, where it is found."""
    written: set[str] = set()
    for path in (CONF / group).glob("*.yaml"):
        written |= set(yaml.safe_load(path.read_text())) - {"defaults"}
    section = settings_of(Config)[group]
    assert section is not None
    assert written == set(settings_of(section))


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        compose().rounds = 5


def test_what_is_composed_again_sees_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process keeps what it has composed; the files may name variables of the environment."""
    for folder in ("/data", "/other", "/data"):
        monkeypatch.setenv("FEDKIM_REALDATA", folder)
        assert compose(["data=public_small"]).data.source == folder

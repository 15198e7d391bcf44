"""Values are taken as typed, and what Hydra's grammar refuses ends in one line."""

import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.config.compose import compose
from tnt_exp.config.overrides import literal_overrides, parse_override, quote
from tnt_exp.errors import UserError

TYPED = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r") | st.sampled_from("'\"\\,[]{}()=$ #%&"),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(TYPED.filter(lambda text: text != "null" and not re.fullmatch(r"'.*'|\".*\"", text)))
def test_text_is_taken_as_typed(typed: str) -> None:
    (literal,) = literal_overrides([f"dataset.path={typed}"])
    assert parse_override(literal).value() == typed
    assert literal_overrides([literal]) == [literal]


@pytest.mark.parametrize("name", ["1.10", "2024_01", "1e3", "007", "true", "1_000", "null_", "grün", "0x10", "nan"])
def test_a_run_has_the_name_that_was_typed(name: str) -> None:
    assert compose([f"run.name={name}"]).run.name == name


@pytest.mark.parametrize(
    "folder",
    [
        "été à la mer",
        "photos (2023)",
        "it's",
        "R&D",
        "a, b",
        "C#",
        "x=1",
        "100%",
        "photos [raw]",
        "12,5 kg",
        "true",
        "🙂",
    ],
)
def test_a_folder_may_have_any_name(folder: str) -> None:
    assert compose(["dataset=image_folder", f"dataset.path={folder}"]).dataset.path == folder


def test_null_and_quoted_values_keep_their_meaning() -> None:
    assert compose(["run.name=null"]).run.name is None
    assert compose(["run.name='null'"]).run.name == "null"
    assert compose(['tracking.run_name="a b"']).tracking.run_name == "a b"


@pytest.mark.parametrize(
    ("typed", "weights"),
    [
        ("{Kätzchen:2,it's:0.5}", {"Kätzchen": 2, "it's": 0.5}),
        ('{"a,b":2, "c: d": 1e-3, 007:1, yes: 3}', {"a,b": 2, "c: d": 0.001, "007": 1, "yes": 3}),
        ("{é!$`:2}", {"é!$`": 2}),
    ],
)
def test_class_weights_may_be_text_as_the_message_shows_it(typed: str, weights: dict[str, float]) -> None:
    with pytest.raises(UserError) as refused:
        compose([f"trainer.class_weights={typed}"])
    assert compose([f"trainer.class_weights={quote(typed)}"]).trainer.class_weights == weights
    if "needs quotes: " in str(refused.value):
        (shown,) = shlex.split(str(refused.value).partition("needs quotes: ")[2].removesuffix("."))
        assert compose([shown]).trainer.class_weights == weights


def test_commas_separate_the_values_of_a_sweep() -> None:
    assert literal_overrides(["run.name=1.10,2.0"], sweep=True) == ["run.name='1.10','2.0'"]
    for typed, literal in {
        '"a,b","c,d"': '"a,b","c,d"',
        "'a,b', plain": "'a,b',' plain'",
        "it's,b": r"'it\'s,b'",
        'a,,"b"': "'a','',\"b\"",
        '"open,b': "'\"open','b'",
    }.items():
        assert literal_overrides([f"run.name={typed}"], sweep=True) == [f"run.name={literal}"]
    assert literal_overrides(["dataset.path=glob(*)", "model.depth=1,2"], sweep=True) == [
        "dataset.path=glob(*)",
        "model.depth=1,2",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("=3", r"'=3': .* no key"),
        ("model.depth", r"no = sign"),
        ("model.depth=[1,2", r"bracket \[ that is not closed"),
        ("model.depth=1]", r"bracket \] without"),
        ("model.mean={a:1", r"bracket \{ that is not closed"),
        ("model.depth='3", r"quote ' that is not closed"),
        ("model.depth=ü", r"character 'ü', which needs quotes"),
        ("model.nme=ü", r"Did you mean model\.name"),
        ("dataset=null", r"dataset=null: expected one of cifar10"),
        ("run.name=${oc.env:NO_SUCH_VARIABLE}", r"run\.name: .*interpolation"),
        ("run.name=" + "a" * 300, r"run\.name: expected at most 200 bytes"),
        ("tracking.register=a/b:c", r"tracking\.register: .* without quotes, / and :"),
        ("tracking.experiment=", r"tracking\.experiment: .*an empty name"),
        ("tracking.uri=ftp://x", r"tracking\.uri: expected sqlite, http"),
        (
            "tracking.uri=postgresql+a.b://x/y",
            r"driver a\.b for postgresql\+a\.b://, which .* and write postgresql\+psycopg2://$",
        ),
        ("tracking.uri=sqlite://x.db", r"tracking\.uri: .*Did you mean sqlite:///x\.db"),
        ("tracking.uri=sqlite:////no/such/x.db", r"tracking\.uri: .*create /no/such first"),
        ("tracking.uri=mlflow.db", r"tracking\.uri: .*sqlite:///mlflow\.db"),
        ("tracking.uri=mysql://user@host/db", r"tracking\.uri: .*driver MySQLdb"),
    ],
)
def test_what_cannot_be_used_is_one_line(override: str, message: str) -> None:
    from tnt_exp.preflight import preflight

    with pytest.raises(UserError, match=message) as caught:
        preflight(compose([override]))
    assert "\n" not in str(caught.value)

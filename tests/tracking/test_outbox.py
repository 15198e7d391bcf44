"""What is written down can be read again, whatever cut it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.tracking.outbox import DeliveryCursor, Outbox

VALUES = st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=20), st.floats(allow_nan=False), st.none()))


def contents(outbox: Outbox) -> list[dict]:
    return [entry.message for entry in outbox.read()]


def message(values: dict) -> dict:
    return {"kind": "params", "values": values}


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=6), st.data())
def test_a_cut_file_holds_what_was_whole_and_can_be_gone_on_with(said: list[dict], data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        outbox = Outbox(Path(name))
        for values in said:
            outbox.append("params", values=values)
        file = outbox.directory / "messages.jsonl"
        ends = [entry.end for entry in outbox.read()]
        cut = data.draw(st.integers(0, outbox.size()))
        if file.exists():
            file.write_bytes(file.read_bytes()[:cut])
        whole = [message(values) for values, end in zip(said, ends, strict=True) if end <= cut]
        again = Outbox(Path(name))
        assert contents(again) == whole
        again.append("params", values={"last": 1})
        assert contents(again) == contents(Outbox(Path(name))) == [*whole, message({"last": 1})]


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=6), st.binary(min_size=1, max_size=8), st.data())
def test_a_damaged_line_is_passed_over_and_the_others_are_there(
    said: list[dict], damage: bytes, data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        outbox = Outbox(Path(name))
        for values in said:
            outbox.append("params", values=values)
        damaged = data.draw(st.sampled_from(list(outbox.read())))
        place = data.draw(st.integers(damaged.start, damaged.end - 2))  # its end of line stays
        file = outbox.directory / "messages.jsonl"
        content = bytearray(file.read_bytes())
        length = min(len(damage), damaged.end - 1 - place)
        content[place : place + length] = damage[:length].replace(b"\n", b"\0")
        before = [entry.message for entry in outbox.read() if entry != damaged]
        file.write_bytes(content)
        found = contents(Outbox(Path(name)))
        assert found == before or len(found) == len(said)  # other text in a value is no damage that can be seen


def test_a_mark_of_another_run_or_in_the_midst_of_a_line_counts_for_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append("run", uri="http://there", run_id="a", experiment_id="1")
    for step in range(3):
        outbox.append("metrics", time=1, step=step, values={"loss": 1.0})
    whole = [entry.end for entry in outbox.read()]
    outbox.write_cursor(DeliveryCursor("a", whole[1]))
    assert outbox.pending_count() == 2
    for cursor in (DeliveryCursor("b", whole[1]), DeliveryCursor("a", whole[1] - 1), DeliveryCursor("a", 10**9)):
        outbox.write_cursor(cursor)
        assert outbox.pending_count() == 3
    (outbox.directory / "delivered.json").write_text("{")
    assert outbox.pending_count() == 3


def test_what_was_said_is_known_to_the_next_process(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append("begin", uri="http://there")
    assert Outbox(tmp_path).created_in == "http://there"
    outbox.append("run", uri="http://there", run_id="a", experiment_id="1")
    outbox.append("params", id="params", values={})
    outbox.append("metrics", time=1, step=7, values={"loss": float("nan"), "accuracy": 1.0})
    outbox.append("metrics", time=1, step=8, values={"loss": 1.0})
    again = Outbox(tmp_path)
    assert again.run is not None
    assert (again.run.run_id, again.created_in) == ("a", None)
    assert again.last_steps == {"loss": 8, "accuracy": 7}
    assert again.enqueued_ids == {"params"}
    assert json.loads((outbox.directory / "messages.jsonl").read_text().splitlines()[0])["kind"] == "begin"

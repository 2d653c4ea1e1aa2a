"""A solver's settings are checked before anything runs, and none is passed over."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.schema import netc_pb2, read_solver
from netc.train.settings import read_settings

GOOD = 'net: "n" base_lr: 0.1 lr_policy: "fixed" max_iter: 10\n'
CAFFE = csv.DictReader(
    (Path(__file__).parents[1] / "schema" / "caffe_wire_schema.csv").read_text("utf-8").splitlines()
)
CAFFE_FIELDS = sorted(
    {row["name"] for row in CAFFE if row["message_or_enum"] == "SolverParameter"} - {"solver_type"}
)


def refused(text: str) -> list[tuple[str, int]]:
    with pytest.raises(NetcError) as caught:
        read_settings(read_solver("solver.prototxt", text))
    return [(p.what, p.span.line) for p in caught.value.problems if p.span]


def test_fields_of_forks_that_the_solver_lacks_are_errors() -> None:
    found = refused(GOOD + "larc: true\nrampup_interval: 500")
    assert found == [
        ("field 'larc' of the solver is set, but not read", 2),
        ("field 'rampup_interval' of the solver is set, but not read", 3),
    ]


def test_a_choice_of_implementation_has_no_effect() -> None:
    plain = read_settings(read_solver("s", GOOD))
    text = GOOD + 'solver_data_type: FLOAT16 store_blobs_in_old_format: true engine: "MKLDNN"'
    assert read_settings(read_solver("s", text)) == plain


@pytest.mark.parametrize("name", CAFFE_FIELDS)
def test_every_field_of_caffe_is_known(name: str) -> None:
    source = read_solver("s", GOOD)
    field = netc_pb2.SolverParameter.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated or not source.message.HasField(name):
        value = getattr(source.message, name)
        if field.message_type:
            value.add() if field.is_repeated else value.SetInParent()
        elif field.is_repeated:
            value.append("x" if field.type == field.TYPE_STRING else 1)
        else:
            setattr(source.message, name, value)
    try:
        read_settings(source)
    except NetcError as error:
        assert all("not read" not in problem.what for problem in error.problems)

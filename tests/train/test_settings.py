"""A solver's settings are checked before anything runs, and none is passed over."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.schema import netc_pb2, read_solver
from netc.train.conditions import CONDITIONS, REFUSED
from netc.train.settings import SOLVER_TYPES, SolverSettings, idle_settings, read_settings

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


def read(text: str, base: str = GOOD) -> SolverSettings:
    return read_settings(read_solver("solver.prototxt", base + text))


def test_what_forks_have_and_netc_does_not_follow_is_an_error_with_its_reason() -> None:
    found = refused(GOOD + "larc: true\nlarc_turbo: true\ndisabled_update: true")
    assert set(found) == {
        ("larc_turbo is not followed: its running correlations are in no snapshot", 3),
        ("a solver whose updates are disabled learns nothing", 4),
    }
    off = "larc_turbo: false disabled_update: false test_and_snapshot_last_epochs: 0"
    assert read(off) == read("")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("restart_interval: 5", "restart_interval has no effect without lr_policy cosine"),
        ('warmup_policy: "constant"', "warmup_policy has no effect without warmup_iter"),
        ("gradient_noise_decay: 1", "gradient_noise_decay has no effect without gradient_noise"),
        ("warmup_iter: 5 rampup_interval: 5", "a rate can warm up in one way only"),
        ("larc: true local_lr_auto: true", "adapted to each layer in one way only"),
        ('warmup_iter: 5 warmup_policy: "linar"', "unknown warmup_policy 'linar'"),
        ('larc: true larc_policy: "clamp"', "unknown larc_policy 'clamp'"),
        ('eval_type: "detecton"', "unknown eval_type 'detecton'"),
        ('momentum_policy: "cosine"', "unknown momentum_policy 'cosine'"),
        ('weight_decay_policy: "poly"', "needs max_weight_decay"),
        ("ema_decay: 1", "ema_decay is too large"),
        ("max_norm: -1", "max_norm is too small"),
        ("momentum: nan", "momentum is not a number"),
        ("stagelr: [1, nan] stageiter: [1, 2]", "stagelr is not a number"),
        ("clip_gradient_values: -1", "clip_gradient_values is too small"),
        ("clamp_weights_lower: 0.5", "a range without 0"),
        ('type: "AdamW" momentum: 1', "momentum is too large"),
        ("warmup_iter: -1", "warmup_iter is too small"),
    ],
)
def test_settings_that_do_not_go_together(text: str, says: str) -> None:
    (what, line), *more = refused(GOOD + "\n" + text)
    assert says in what
    assert line == 3
    assert not more


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('lr_policy: "cosine"', "lr_policy 'cosine' needs max_iter"),
        ('lr_policy: "cosine" restart_interval: 0', "restart_interval is too small"),
        ('lr_policy: "cosine" max_iter: 9 min_lr: 1', "cannot descend to min_lr"),
        ('lr_policy: "cosine" restart_interval: 5 restart_mult: 0.5', "restart_mult is too small"),
        ('lr_policy: "plateau" gamma: 0.1', "lr_policy 'plateau' needs plateau_winsize"),
        ('lr_policy: "plateau" gamma: 0.1 plateau_winsize: [5, 0]', "is empty"),
        ('lr_policy: "multifixed" stagelr: 1 stageiter: [1, 2]', "stagelr and of stageiter differ"),
        ('lr_policy: "multifixd"', "unknown lr_policy 'multifixd'"),
    ],
)
def test_policies_without_their_settings(text: str, says: str) -> None:
    ((what, _),) = refused(f'net: "n" base_lr: 0.1 {text}')
    assert says in what


def test_a_policy_of_its_own_rates_needs_no_base_lr() -> None:
    policy = 'lr_policy: "multifixed" stagelr: 0.1 stageiter: 5'
    assert read(policy, 'net: "n" ').base_lr == 0
    assert refused(f'net: "n" {policy} warmup_iter: 5') == [("base_lr is missing", 0)]


def test_settings_that_caffe_passes_over_are_accepted_and_told() -> None:
    text = 'momentum2: 0.9\nrms_decay: 0.5 delta: 1\ngamma: 0.1 stepvalue: 5 ap_version: "11point"'
    source = read_solver("s.prototxt", GOOD + text)
    notes = idle_settings(source, read_settings(source))
    assert notes == (
        "s.prototxt:4:8: gamma has no effect without lr_policy step, exp, inv, multistep, sigmoid "
        "or plateau",
        "s.prototxt:4:23: stepvalue has no effect without lr_policy multistep",
        "s.prototxt:2:12: momentum2 has no effect without type Adam or AdamW",
        "s.prototxt:3:12: rms_decay has no effect without type RMSProp",
        "s.prototxt:3:23: delta has no effect without type AdaGrad, RMSProp, AdaDelta, Adam or "
        "AdamW",
        "s.prototxt:4:37: ap_version has no effect without eval_type detection",
    )
    source = read_solver("s.prototxt", GOOD + 'type: "AdamW" momentum2: 0.9 delta: 1')
    assert idle_settings(source, read_settings(source)) == ()


def test_every_condition_is_about_settings_that_are_read() -> None:
    fields = {field.name for field in dataclasses.fields(SolverSettings)}
    names = [name for condition in CONDITIONS for name in condition.names]
    assert len(names) == len(set(names))
    assert fields.issuperset(names)
    assert not fields.intersection(REFUSED)
    assert set(netc_pb2.SolverParameter.DESCRIPTOR.fields_by_name).issuperset(REFUSED)


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


def test_every_setting_of_rates_and_rules_is_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    words = set(re.findall(r"\w+", text))
    numbers = netc_pb2.SolverParameter.DESCRIPTOR.fields_by_name
    # From 10050 on come those of the loop around the updates.
    ours = {
        field.name
        for field in dataclasses.fields(SolverSettings)
        if field.name not in CAFFE_FIELDS and not 10050 <= numbers[field.name].number < 20000
    }
    assert "max_norm" in ours
    assert (ours | set(REFUSED) | set(SOLVER_TYPES)) - words == set()

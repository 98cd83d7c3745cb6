"""Threshold rules as models of a study, by their names."""

import pytest
from evaluation_cases import memory_case

from seganypet.errors import SegAnyPETError
from seganypet.study.evaluation import evaluate
from seganypet.study.methods import named_models, resolve_methods


def test_the_sign_of_a_rule_is_not_the_sign_of_a_name():
    assert named_models(["SUV>=2.5", "41% SUVmax, from hottest"]) == ["SUV>=2.5", "41% SUVmax, from hottest"]
    assert named_models(["fixed=SUV>=4"]) == {"fixed": "SUV>=4"}


def test_a_table_has_one_name_for_one_rule():
    methods = resolve_methods(["SUV>=4.0", "random_walker"], ["41 % SUVmax"])
    assert [method.name for method in methods] == ["SUV>=4", "random_walker", "41% SUVmax"]


@pytest.mark.parametrize("old", ["41%", "2.5", "41% hottest"])
def test_an_old_name_is_refused_as_a_rule_and_not_looked_for_as_a_network(old):
    for models, rules in (([old], ()), (named_models([f"mine={old}"]), ()), (None, [old])):
        with pytest.raises(SegAnyPETError, match="as it is now written"):
            resolve_methods(models, rules)


def test_rows_of_one_rule_are_not_taken_for_those_of_another_of_the_same_name(tmp_path):
    options = {"rules": (), "targets": ["liver"], "output": tmp_path / "table.csv", "progress": False}
    evaluate([memory_case()], {"x": "41% SUVmax"}, 1, **options)
    with pytest.raises(SegAnyPETError, match="'x' with rule 41% SUVmax, .*while today's 'x' is one with rule SUV>=4"):
        evaluate([memory_case()], {"x": "SUV>=4"}, 1, **options)

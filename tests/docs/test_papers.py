"""The page of papers' tables is what the committed records and the printed values say."""

import pytest

from bench.plan.load import suite_names
from tests.docs.test_docs import ROOT
from tools.papers import AGAIN, SECTIONS, page, printed, same_order


def test_the_committed_page_is_current():
    assert (ROOT / "docs" / "papers.md").read_text(encoding="utf-8") == page(), f"write it again: {AGAIN}"


def test_its_suites_are_the_projects():
    assert set(SECTIONS) <= set(suite_names())


def test_printed_values_are_those_of_the_table_that_holds_the_shares():
    rows = (ROOT / "results/validation/lst_parameters.csv").read_text(encoding="utf-8")
    for share in printed("paper-lst", "trained_percent").values():
        assert f",{share:.2f}," in rows


@pytest.mark.parametrize(
    ("theirs", "ours", "answer"),
    [
        ([3, 2, 1], [30, 20, 10], "yes"),
        ([3, 2, 1], [30, 10, 20], "no"),
        ([2, 1], [1, 1], "no"),
        ([1, 1], [2, 1], "yes"),
    ],
)
def test_an_order_is_kept_where_all_that_differs_differs_alike(theirs, ours, answer):
    assert same_order(theirs, ours) == answer

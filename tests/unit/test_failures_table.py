"""docs/failures.md says of each row whether it is closed, and by which tests: it is written from them."""

import re
import tomllib

from tests.faults.catalogue import CATALOGUE, PAGE, marked_with_rows, page


def test_the_page_of_failures_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `make failures`"


def test_no_test_is_marked_with_a_row_that_there_is_not_or_named_after_one_as_they_once_were() -> None:
    rows = {row["name"] for group in tomllib.loads(CATALOGUE.read_text())["group"] for row in group["row"]}
    marked = marked_with_rows()
    assert rows
    assert set(marked) <= rows
    assert [test for tests in marked.values() for test in tests if re.search(r"::test_[a-g]\d\d_", test)] == []

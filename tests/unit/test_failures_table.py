"""docs/failures.md says of each row whether it is closed, and by which tests: it is written from them."""

import tomllib

from tests.faults.catalogue import CATALOGUE, PAGE, named_after_rows, page


def test_the_page_of_failures_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `make failures`"


def test_no_test_is_named_after_a_row_that_there_is_not() -> None:
    rows = {row["name"] for group in tomllib.loads(CATALOGUE.read_text())["group"] for row in group["row"]}
    named = {name for name in named_after_rows() if len(name) == 3 and name[0] in "ABCDEFG" and name[1:].isdigit()}
    assert rows
    assert named <= rows

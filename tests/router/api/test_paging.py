"""Pages of lists."""

from __future__ import annotations

from router.api.paging import to_page


def test_a_page_names_the_ends_of_what_it_has() -> None:
    page = to_page([{"id": "a"}, {"id": "b"}, {"id": "c"}], has_more=True)

    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "c", True)


def test_an_empty_page_has_no_ends() -> None:
    page = to_page([], has_more=False)

    assert (page["first_id"], page["last_id"], page["data"]) == (None, None, [])


def test_a_page_may_end_in_an_object_that_is_not_shown() -> None:
    assert to_page([{"id": "a"}], has_more=True, last_id="hidden")["last_id"] == "hidden"
    assert to_page([], has_more=True, last_id="hidden")["last_id"] == "hidden"

"""Places: what a worker has room for, by what its runs use."""

from reprieve.models.places import Places, Room

PLACES = Places(3, {"remote": 10, "kubernetes": 5})


def test_runs_that_use_the_host_share_its_places_and_the_others_have_limits_of_their_own() -> None:
    followed = {"process": 1, "third_party": 1, "remote": 9}
    assert PLACES.rooms(["process", "detached", "remote", "kubernetes"], followed) == [
        Room(("process", "detached"), 1),
        Room(("remote",), 1),
        Room(("kubernetes",), 5),
    ]


def test_what_takes_no_place_takes_none_however_much_there_is_of_it() -> None:
    assert PLACES.rooms(["process", "remote"], {"remote": 10}) == [Room(("process",), 3), Room(("remote",), 0)]


def test_a_group_that_is_full_or_more_than_full_has_no_room() -> None:
    assert [room.runs for room in PLACES.rooms(["process"], {"process": 3})] == [0]
    assert [room.runs for room in PLACES.rooms(["process"], {"process": 3, "detached": 2})] == [-2]


def test_an_adapter_that_is_not_here_has_no_room() -> None:
    assert PLACES.rooms([], {}) == []
    assert PLACES.rooms(["kubernetes"], {}) == [Room(("kubernetes",), 5)]

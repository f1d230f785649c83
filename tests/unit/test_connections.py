"""Which connection of the HTTP API makes room for another."""

from dataclasses import dataclass

from reprieve.models.connections import ConnectionState, Stage, first_to_go


@dataclass(frozen=True)
class Connection:
    state: ConnectionState


def test_of_two_that_came_at_the_same_moment_either_goes() -> None:
    twins = [Connection(ConnectionState(Stage.HEAD, 1.0, reads)) for reads in (True, False)]
    assert first_to_go(twins) is twins[0]

"""Nodes that tests speak of."""

from reprieve.models.nodes import Node


def a_node(name: str, slot: str = "", namespace: str = "boot/pid:[1]") -> Node:
    """A node of this name, of a data folder of its own."""
    return Node(name, slot or f"slot-of-{name}", namespace)

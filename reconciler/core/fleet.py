"""What fleet.yaml says: the hosts, and the defaults that every app starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.model import FleetHost, Problem
from reconciler.core.node import Node


@dataclass(frozen=True, slots=True)
class Fleet:
    """A usable fleet.yaml."""

    hosts: Mapping[str, FleetHost] | None = None
    """None when it lists no hosts: then ``hosts:`` of a manifest means the names that agents go by."""
    defaults: Node | None = None

    def apply(self, manifest: Node) -> Node:
        """A manifest upon the defaults; every value keeps the place where it was written."""
        return self.defaults.merged(manifest) if self.defaults is not None else manifest

    def hosts_of(self, wanted: tuple[str, ...]) -> frozenset[str] | None:
        """The names of the hosts that names or labels pick; None means every host, known or not."""
        if not wanted:
            return None
        if self.hosts is None:
            return frozenset(wanted)
        return frozenset(
            host.name for host in self.hosts.values() if host.name in wanted or not set(wanted).isdisjoint(host.labels)
        )

    @property
    def words(self) -> tuple[str, ...]:
        """Everything by which a manifest may pick hosts."""
        hosts = (self.hosts or {}).values()
        return tuple(dict.fromkeys([host.name for host in hosts] + [label for host in hosts for label in host.labels]))


def read_fleet(root: Node) -> tuple[Fleet, tuple[Problem, ...]]:
    """A document that its schema accepts becomes a fleet."""
    listed = root.at("hosts")
    if listed is None:
        return Fleet(None, root.at("defaults")), ()
    hosts = {}
    problems = []
    for name, node in listed.fields.items():
        address = node.at("address")
        labels = node.each("labels")
        hosts[name] = FleetHost(name, address.text if address else None, tuple(label.text for label in labels))
        problems += [
            label.problem(
                f"the label {label.text!r} is also the name of a host; 'hosts: [{label.text}]' would be unclear"
            )
            for label in labels
            if label.text in listed.fields
        ]
    return Fleet(hosts, root.at("defaults")), tuple(problems)

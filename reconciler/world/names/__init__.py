"""The names service: dnsmasq with one file for each app, which nginx and the other apps ask."""

from reconciler.world.names.service import DnsmasqNames

__all__ = ["DnsmasqNames"]

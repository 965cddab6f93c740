"""One room for each outside thing: Git, sops, Docker, dnsmasq, nginx, the store, metrics.

A room knows how to ask its thing and how to change it; it decides nothing and knows no other room.
Each implements a Protocol of ``reconciler/protocols.py``.
"""

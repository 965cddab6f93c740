"""The host's nginx: what it has loaded, and how it is brought to load something else."""

from reconciler.world.nginx.site import NginxSite, include_line

__all__ = ["NginxSite", "include_line"]

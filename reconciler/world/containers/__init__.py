"""The Docker Engine, through its SDK. ``engine.DockerEngine`` implements ``protocols.Engine``; the rest are its parts.

engine       containers and the network: create, start, stop, remove ...
observation  two list calls and the few inspects that are needed, as values
images       pulls, registry digests, the user that an image runs as
connections  what /proc says about a container's TCP connections
clients      one SDK client per thread; every error becomes one of ours
wire         the SDK client itself; the only importer of ``docker``, which costs 90 ms and 20 MB
"""

from reconciler.world.containers.engine import DockerEngine

__all__ = ["DockerEngine"]

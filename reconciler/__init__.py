"""GitOps for plain Linux VMs.

The words of this code, in the order of the walk (``cycle.py`` is the walk; read it first):

    config repository  the Git repository of manifests; the only source of desired state
    manifest           one YAML or JSON document: an App or the Fleet, checked by a schema in ``schemas/``
    revision           a commit of it: observed (seen at the remote), attempted, applied (all healthy)
    desired, observed  what the manifests ask of this host; what Docker, nginx and the disk really have
    fingerprint        hash of everything that makes one app's containers what they are; never the commit
    plan, action       the ordered next steps from observed to desired; each with a reason a person understands
    rollout            an app moving from one fingerprint to another
    drift              observed differs from the applied desired state although no commit asked for it
    prune              removing what the repository no longer names
    quarantine         a fingerprint that failed to become healthy; left alone until someone changes something
    sync status        Synced, OutOfSync, Unknown: does observed equal desired?
    health status      Healthy, Progressing, Degraded, Suspended, Missing
"""

__version__ = "0.1.0"

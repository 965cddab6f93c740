"""The config repository: where desired state comes from.

    remote.py     the URL, what it permits, and the hardened environment in which git talks to it
    diagnosis.py  what git and ssh print when they fail -> a reason that a person understands
    mirror.py     our bare mirror: commits, trees and blobs, read without a checkout; with
                  reader.py (GitPython), files.py (one revision's tree), making.py (new mirrors, damaged mirrors)
    tracking.py   GitSource: follows one branch, fast-forward only
    worktree.py   WorktreeSource: snapshots a directory that a person edits
    clone.py      a person's own clone, into which ``reconciler rollback`` commits; with sketch.py (a tree on paper)

Invariants: nothing of a repository is ever checked out, so hooks, filters, symlinks and ``..`` have nothing to act on
(but in a person's own clone, which their own git brings forward to what was pushed). No string from a manifest reaches
a git command line. A credential is in no argv, environment, log, message or file of ours.

GitPython reads the mirror; git commands that write or talk to somebody pass through ``process.run``. GitPython's
``kill_after_timeout`` finds children by their parent: where git itself has died and ssh lives on, it waits for ever
(measured with 3.2.1), and it hands our whole environment (GIT_DIR, GIT_SSH, ...) down to every command.
"""

from reconciler.world.source.tracking import GitSource
from reconciler.world.source.worktree import WorktreeSource

__all__ = ["GitSource", "WorktreeSource"]

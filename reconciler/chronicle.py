"""Writes down what happened, once: in the history, and as metrics. Knows no cause and decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from reconciler.core import actions as act
from reconciler.core.afterwards import in_words
from reconciler.core.images import normalise
from reconciler.core.memory import Quarantined, Ran
from reconciler.core.model import Commit
from reconciler.core.status import AppStatus
from reconciler.core.target import Target
from reconciler.errors import ReconcilerError
from reconciler.protocols import Clock, HistoryEntry, Meter, Source, Store

log = logging.getLogger(__name__)

_LAST_LINE = 300  # characters of it in a message; the store keeps more
_LONGEST_COMMAND = 200
_LOST = "what was known of it, such as a suspension, is lost"


class Chronicle:
    """History and metrics of deployments, failures, repairs and removals."""

    def __init__(self, store: Store, meter: Meter, source: Source, clock: Clock) -> None:
        self._store = store
        self._meter = meter
        self._source = source
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}
        self._unwell: dict[str, float] = {}
        self._began: dict[str, tuple[str, str]] = {}

    def saw(self, targets: Mapping[str, Target]) -> None:
        """Remember when the agent first saw each app's present version: convergence is counted from here."""
        now = self._clock()
        for name, target in targets.items():
            fingerprint = target.desired.fingerprint if target.desired else ""
            if target.blocked is None and self._seen.get(name, ("", 0))[0] != fingerprint:
                self._seen[name] = (fingerprint, now)
        for name in self._seen.keys() - targets.keys():
            del self._seen[name]

    def watched(self, statuses: Mapping[str, AppStatus]) -> None:
        """Measure how long apps were not healthy."""
        now = self._clock()
        for name, status in statuses.items():
            if status.health in {"Degraded", "Missing"}:
                self._unwell.setdefault(name, now)
            elif status.health == "Healthy" and name in self._unwell:
                self._meter.recovery(name, now - self._unwell.pop(name))
        for name in self._unwell.keys() - statuses.keys():
            del self._unwell[name]

    def began(self, app: str, fingerprint: str, reason: str) -> None:
        """A rollout has started: what changed is known now, and not any more when old is gone."""
        self._began[app] = (fingerprint, reason)

    def applied(self, action: act.RecordApplied) -> None:
        """A version is healthy. The store learns the revision; history only hears of a new fingerprint."""
        desired, now = action.desired, self._clock()
        before = self._store.memory().applied.get(action.app)
        if action.adopted:
            reason = f"{action.reason}: {_LOST}"
            commit = self._commit(desired.revision)
            self._add(action.app, "adopted", commit, desired.fingerprint, desired.app.image, reason, None)
            log.warning("%s: %s", action.app, reason)
        elif before is None or before.fingerprint != desired.fingerprint:
            commit = self._commit(desired.revision)
            known = {entry.fingerprint for entry in self._store.history(action.app, 50) if entry.event != "failed"}
            event = "rolled back" if desired.fingerprint in known else "deployed"
            seen_fingerprint, seen_at = self._seen.get(action.app, ("", 0.0))
            duration = now - seen_at if seen_fingerprint == desired.fingerprint else None
            began, what = self._began.get(action.app, ("", ""))
            reason = what if began == desired.fingerprint else action.reason
            self._add(action.app, event, commit, desired.fingerprint, desired.app.image, reason, duration)
            self._meter.deployment(action.app, "success")
            if event == "rolled back":
                self._meter.rollback(action.app)
            if commit is not None:
                self._meter.lead_time(action.app, max(0.0, now - commit.committed_at))
            if duration is not None:
                self._meter.convergence(action.app, duration)
        task, after = desired.app.before_deploy, desired.app.after_deploy
        self._store.record_applied(
            action.app,
            desired.revision,
            desired.fingerprint,
            now,
            desired.spec.image,
            Ran(
                reference=desired.app.image,
                before=task.words[:_LONGEST_COMMAND] if task else "",
                after=in_words(after),
                due=action.way if after is not None and not action.adopted else None,
            ),
        )

    def after_done(self, action: act.AfterDeployDone) -> None:
        """Nothing is due any more."""
        self._store.after_done(action.app, action.desired.fingerprint)

    def after_failed(self, action: act.AfterDeployFailed, logs: str) -> None:
        """The version goes on serving; whoever reads the history sees what of it did not happen."""
        desired = action.desired
        self._store.after_failed(action.app, desired.fingerprint, action.cause, action.message, logs)
        reason = f"{action.cause}: {action.message}"
        commit = self._commit(desired.revision)
        self._add(action.app, "after_deploy failed", commit, desired.fingerprint, desired.app.image, reason, None)

    def pulled(self, action: act.PullImage, image: str, *, fresh: bool) -> None:
        """An image was pulled. One that was on this host before (not ``fresh``) is ours only if we brought it then."""
        try:
            if fresh or image in self._store.memory().brought:
                self._store.record_image(image, normalise(action.reference), self._clock())
        except ReconcilerError as error:  # it is here, and that is what was asked for
            log.warning("%s: %s will stay on this host: %s", action.app, action.reference, error)

    def collected(self, action: act.CollectImage) -> None:
        """An image has gone, or is not ours any more."""
        self._store.forget_image(action.image)

    def failed(self, action: act.Quarantine, logs: str) -> None:
        """A version was given up."""
        entry = Quarantined(
            action.desired.trial, action.cause, action.message, action.desired.revision, self._clock(), logs
        )
        self._store.quarantine(action.app, entry)
        commit = self._commit(action.desired.revision)
        self._add(
            action.app, "failed", commit, action.desired.fingerprint, "", f"{action.cause}: {action.message}", None
        )
        self._meter.deployment(action.app, "failure")

    def rehearsed(self, action: act.RecordRehearsal, logs: str) -> None:
        """Whether an app could go back. The last thing that its replica said is the best reason there is."""
        last = next((line.strip() for line in reversed(logs.splitlines()) if line.strip()), "")
        said = f"{action.answer.message}; it said last: {last[:_LAST_LINE]}" if last else action.answer.message
        answer = replace(action.answer, message=said, logs=logs, at=self._clock())
        self._store.record_rehearsal(action.app, answer)
        commit = self._commit(answer.revision) if answer.revision else None
        verdict = "could go back" if answer.ready else "could not go back"
        self._add(action.app, "rehearsed", commit, answer.previous, "", f"{verdict}: {said}", None)
        log.log(logging.INFO if answer.ready else logging.WARNING, "%s: %s: %s", action.app, verdict, said)

    def repaired(self, action: act.Action) -> None:
        """Something was put back that no commit had changed."""
        self._store.add(HistoryEntry(self._clock(), action.app, "repaired", reason=action.reason))
        self._meter.drift_repair(action.app)

    def restarted(self, action: act.RestartContainer) -> None:
        """A replica was started anew because it was not healthy any more."""
        self._store.add(HistoryEntry(self._clock(), action.app, "restarted", reason=action.reason))

    def pruned(self, action: act.RecordPruned) -> None:
        """Nothing of an app is left."""
        self._store.forget(action.app)
        self._store.add(HistoryEntry(self._clock(), action.app, "pruned", reason=action.reason))

    def _add(
        self,
        app: str,
        event: str,
        commit: Commit | None,
        fingerprint: str,
        image: str,
        reason: str,
        duration: float | None,
    ) -> None:
        self._store.add(
            HistoryEntry(
                at=self._clock(),
                app=app,
                event=event,
                revision=commit.sha if commit else "",
                fingerprint=fingerprint,
                image=image,
                author=commit.author if commit else "",
                subject=commit.subject if commit else "",
                reason=reason,
                duration=duration,
            )
        )

    def _commit(self, revision: str) -> Commit | None:
        try:
            return self._source.commit(revision)
        except ReconcilerError as error:
            log.warning("history: %s", error)
            return None

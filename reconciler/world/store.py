"""What nobody else knows, in SQLite: history, quarantine, suspended apps, applied and accepted revisions, our images.

Losing it costs history, never a running app; ``database.py`` says what happens then. The agent and the command line
have it open at the same time.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from reconciler.core.memory import Applied, Brought, Due, Memory, Quarantined, Ran, Rehearsed, Suspended, Version, Way
from reconciler.database import Database
from reconciler.protocols import HistoryEntry

_MIGRATIONS = (
    """
    CREATE TABLE applied (app TEXT PRIMARY KEY, revision TEXT NOT NULL, fingerprint TEXT NOT NULL, at REAL NOT NULL);
    CREATE TABLE quarantined (app TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, reason TEXT NOT NULL,
        message TEXT NOT NULL, revision TEXT NOT NULL, at REAL NOT NULL, logs TEXT NOT NULL);
    CREATE TABLE suspended (app TEXT PRIMARY KEY, since REAL NOT NULL, why TEXT NOT NULL);
    CREATE TABLE accepted (id INTEGER PRIMARY KEY, revision TEXT NOT NULL UNIQUE);
    CREATE TABLE history (id INTEGER PRIMARY KEY, at REAL NOT NULL, app TEXT NOT NULL, event TEXT NOT NULL,
        revision TEXT NOT NULL, fingerprint TEXT NOT NULL, image TEXT NOT NULL, author TEXT NOT NULL,
        subject TEXT NOT NULL, reason TEXT NOT NULL, duration REAL);
    CREATE INDEX history_of_app ON history (app, id);
    CREATE TABLE made (at REAL NOT NULL);
    INSERT INTO made VALUES ((julianday('now') - 2440587.5) * 86400);
    CREATE TABLE status (id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL, at REAL NOT NULL);
    """,
    """
    CREATE TABLE versions (id INTEGER PRIMARY KEY, app TEXT NOT NULL, fingerprint TEXT NOT NULL, image TEXT NOT NULL,
        at REAL NOT NULL, UNIQUE (app, fingerprint));
    CREATE TABLE brought (image TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (image, name));
    """,
    """
    ALTER TABLE versions ADD COLUMN revision TEXT NOT NULL DEFAULT '';
    ALTER TABLE versions ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
    UPDATE versions SET place = id;
    """,
    """
    ALTER TABLE versions ADD COLUMN reference TEXT NOT NULL DEFAULT '';
    ALTER TABLE versions ADD COLUMN before TEXT NOT NULL DEFAULT '';
    CREATE TABLE due (app TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, direction TEXT NOT NULL, revision TEXT NOT NULL,
        image TEXT NOT NULL, at REAL NOT NULL, cause TEXT NOT NULL, message TEXT NOT NULL, logs TEXT NOT NULL);
    CREATE TABLE urged (app TEXT PRIMARY KEY, at REAL NOT NULL);
    """,
    """
    CREATE TABLE rehearsed (app TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, previous TEXT NOT NULL,
        ready INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, revision TEXT NOT NULL, at REAL NOT NULL,
        logs TEXT NOT NULL, asked TEXT NOT NULL);
    """,
    """
    ALTER TABLE due ADD COLUMN task TEXT NOT NULL DEFAULT '';
    """,
)
_APPLICATION = 0x7265636F  # "reco"

_HISTORY, _HISTORY_OF_APP, _ACCEPTED = 10_000, 200, 100  # rows kept
_VERSIONS_OF_APP, _VERSIONS_OF_GONE = 20, 30 * 86_400.0  # likewise; seconds for those of apps that are gone
_LOGS = 64 * 1024  # characters of log kept with a quarantine

_DAMAGED = (
    "the store was damaged and is kept as {copy}: history, quarantines and suspended apps of before are not known any "
    "more; what runs goes on. Suspend again what must not change, then remove the copy"
)

_FIELDS = tuple(field.name for field in dataclasses.fields(HistoryEntry))
_COLUMNS = ", ".join(_FIELDS)
_IS_APPLIED = "(SELECT 1 FROM applied WHERE app = ?1 AND fingerprint = ?2)"
_ADD_VERSION = f"""
    INSERT OR REPLACE INTO versions (app, fingerprint, image, at, revision, place, reference, before)  -- as newest row
    VALUES (?1, ?2, ?3, ?4, ?5, coalesce((SELECT place FROM versions WHERE app = ?1 AND fingerprint = ?2),
                                         (SELECT max(place) + 1 FROM versions), 1), ?6,
            -- a before_deploy that a later commit gave to the same version never ran; older agents wrote none down
            CASE WHEN EXISTS {_IS_APPLIED}
            THEN coalesce((SELECT CASE WHEN reference = '' THEN ?7 ELSE before END
                           FROM versions WHERE app = ?1 AND fingerprint = ?2), '') ELSE ?7 END)"""  # noqa: S608  (our words)
# Before ``applied`` is written: that this version was not applied yet is what makes its after_deploy due.
_NO_LONGER_DUE = f"DELETE FROM due WHERE app = ?1 AND NOT EXISTS {_IS_APPLIED}"  # noqa: S608  (our words)
# Nor is what was answered for it an answer when it comes back: what stood before it then may have changed the data.
_NO_LONGER_REHEARSED = f"DELETE FROM rehearsed WHERE app = ?1 AND NOT EXISTS {_IS_APPLIED}"  # noqa: S608  (our words)
_NOW_DUE = f"INSERT INTO due SELECT ?1, ?2, ?3, ?4, ?5, ?6, '', '', '', ?7 WHERE NOT EXISTS {_IS_APPLIED}"
# Another time is another run: a container of the failed one that is still there is not taken for it.
_DUE_AGAIN = "UPDATE due SET at = ?1, cause = '', message = '', logs = ''"
_ADD = f"INSERT INTO history ({_COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))})"  # noqa: S608  (our field names)
_PRUNE_REPAIRS, _PRUNE_REST = (  # apart: repairs may be many, and who goes back must still find the versions
    f"""DELETE FROM history WHERE app = ? AND event {which} AND id <=
        (SELECT id FROM history WHERE app = ? AND event {which} ORDER BY id DESC LIMIT 1 OFFSET ?)"""  # noqa: S608  (our words)
    for which in ("IN ('repaired', 'restarted')", "NOT IN ('repaired', 'restarted')")
)
_LIST = f"SELECT {_COLUMNS} FROM history ORDER BY id DESC LIMIT ?"  # noqa: S608  (likewise)
_LIST_APP = f"SELECT {_COLUMNS} FROM history WHERE app = ? ORDER BY id DESC LIMIT ?"  # noqa: S608  (likewise)


class SqliteStore:
    """The ``Store`` of protocols.py, for several threads and processes.

    Nothing is opened before the first call; who has used it closes it.

    Every method but ``faults`` may raise Refused (``StoreNewer``: a newer version of reconciler wrote it) and
    Unavailable: reads ``DiskError`` and ``StoreBusy``, writes ``DiskFull`` and ``DiskReadOnly`` too.

    Args:
        path: The database, e.g. ``/var/lib/reconciler/store.db``.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, what="the store", application=_APPLICATION, migrations=_MIGRATIONS)
        self._lock = threading.Lock()
        self._memory = Memory()
        self._memory_version: tuple[int, int] | None = None

    # --- decisions ----------------------------------------------------------------------------------------------------

    def memory(self) -> Memory:
        """Applied, quarantined, suspended, accepted; the same object as long as nobody wrote."""
        with self._lock:
            return self._database.read(self._current_memory)

    def _current_memory(self, connection: sqlite3.Connection) -> Memory:
        # data_version counts the commits of other connections, in microseconds; our own forget the copy.
        version = (self._database.generation, int(connection.execute("PRAGMA data_version").fetchone()[0]))
        if version != self._memory_version:
            self._memory = Memory(
                since=connection.execute("SELECT at FROM made").fetchone()[0],
                applied={app: Applied(*row) for app, *row in connection.execute("SELECT * FROM applied")},
                quarantined={app: Quarantined(*row) for app, *row in connection.execute("SELECT * FROM quarantined")},
                suspended={app: Suspended(*row) for app, *row in connection.execute("SELECT * FROM suspended")},
                accepted=frozenset(row[0] for row in connection.execute("SELECT revision FROM accepted")),
                versions=_versions(connection),
                rehearsed=_rehearsed(connection),
                brought=_brought(connection),
                due=_due(connection),
                urged=dict(connection.execute("SELECT app, at FROM urged")),
            )
            self._memory_version = version
        return self._memory

    def _decide(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        with self._lock:
            self._memory_version = None
            self._database.write(*statements)

    def record_applied(
        self, app: str, revision: str, fingerprint: str, at: float, image: str = "", ran: Ran | None = None
    ) -> None:
        """An app is healthy at a revision, and runs from an image of this id. Of its versions the last 20 are kept."""
        version, applied = (app, fingerprint), (app, revision, fingerprint, at)
        ran = ran or Ran()
        way = () if ran.due is None else (ran.due.direction, ran.due.revision, ran.due.image)
        task = ((_NOW_DUE, (*version, *way, at, ran.after)),) if way else ()
        remembered = ((_ADD_VERSION, (*version, image, at, revision, ran.reference, ran.before)),) if image else ()
        self._decide(
            (_NO_LONGER_DUE, version),
            (_NO_LONGER_REHEARSED, version),
            *task,
            (f"{_DUE_AGAIN}, task = ?3 WHERE app = ?2 AND task NOT IN ('', ?3)", (at, app, ran.after)),
            *remembered,
            (f"DELETE FROM urged WHERE app = ?1 AND NOT EXISTS {_IS_APPLIED}", version),  # noqa: S608  (our words)
            ("INSERT OR REPLACE INTO applied VALUES (?, ?, ?, ?)", applied),
            (
                """DELETE FROM versions WHERE app = ? AND id <=
                   (SELECT id FROM versions WHERE app = ? ORDER BY id DESC LIMIT 1 OFFSET ?)""",
                (app, app, _VERSIONS_OF_APP),
            ),
            ("DELETE FROM versions WHERE at < ? AND app NOT IN (SELECT app FROM applied)", (at - _VERSIONS_OF_GONE,)),
        )

    def after_done(self, app: str, fingerprint: str) -> None:
        """The after_deploy of a version has ended well."""
        self._decide(("DELETE FROM due WHERE app = ? AND fingerprint = ?", (app, fingerprint)))

    def after_failed(self, app: str, fingerprint: str, cause: str, message: str, logs: str) -> None:
        """The after_deploy of a version has failed; it is not due again before ``retry``, or a commit changes it."""
        failure = (cause, _text(message), _text(logs[-_LOGS:]))
        self._decide(
            (
                "UPDATE due SET cause = ?, message = ?, logs = ? WHERE app = ? AND fingerprint = ?",
                (*failure, app, fingerprint),
            )
        )

    def record_image(self, image: str, name: str, at: float) -> None:
        """The agent brought an image to this host, pulled by this name."""
        self._decide(("INSERT OR IGNORE INTO brought VALUES (?, ?, ?)", (image, name, at)))

    def forget_image(self, image: str) -> None:
        """An image is gone, or somebody else uses it too: it is not ours to remove any more."""
        self._decide(("DELETE FROM brought WHERE image = ?", (image,)))

    def quarantine(self, app: str, entry: Quarantined) -> None:
        """A fingerprint failed."""
        row = (app, entry.fingerprint, entry.reason, _text(entry.message), entry.revision, entry.at)
        logs = _text(entry.logs[-_LOGS:])
        self._decide(("INSERT OR REPLACE INTO quarantined VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, logs)))

    def record_rehearsal(self, app: str, answer: Rehearsed) -> None:
        """Whether an app could go back; the last answer counts."""
        row = (app, answer.fingerprint, answer.previous, int(answer.ready), answer.reason, _text(answer.message))
        rest = (answer.revision, answer.at, _text(answer.logs[-_LOGS:]), answer.asked)
        self._decide(("INSERT OR REPLACE INTO rehearsed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *rest)))

    def forget(self, app: str) -> None:
        """An app is gone: applied, quarantine and rehearsal go; history stays, and so does a person's ``suspend``.

        Its versions stay too, and tell when it went.
        """
        self._decide(
            ("DELETE FROM applied WHERE app = ?", (app,)),
            ("DELETE FROM quarantined WHERE app = ?", (app,)),
            ("DELETE FROM rehearsed WHERE app = ?", (app,)),
            ("DELETE FROM due WHERE app = ?", (app,)),
            ("DELETE FROM urged WHERE app = ?", (app,)),
            ("UPDATE versions SET at = (julianday('now') - 2440587.5) * 86400 WHERE app = ?", (app,)),
        )

    def suspend(self, app: str, why: str, at: float) -> None:
        """Leave an app alone until ``resume``."""
        self._decide(("INSERT OR REPLACE INTO suspended VALUES (?, ?, ?)", (app, at, _text(why))))

    def resume(self, app: str) -> None:
        """Take an app up again."""
        self._decide(("DELETE FROM suspended WHERE app = ?", (app,)))

    def retry(self, app: str, at: float = 0.0) -> None:
        """Lift a quarantine, make an after_deploy that failed due again, go on although before_deploy broke the old."""
        self._decide(
            ("DELETE FROM quarantined WHERE app = ?", (app,)),
            ("DELETE FROM rehearsed WHERE app = ? AND NOT ready", (app,)),
            (f"{_DUE_AGAIN} WHERE app = ?2 AND cause != ''", (at, app)),
            *((("INSERT OR REPLACE INTO urged VALUES (?, ?)", (app, at)),) if at else ()),
        )

    def accept(self, revision: str) -> None:
        """A person accepts what a revision removes."""
        self._decide(
            ("INSERT OR IGNORE INTO accepted (revision) VALUES (?)", (revision,)),
            ("DELETE FROM accepted WHERE id <= (SELECT max(id) FROM accepted) - ?", (_ACCEPTED,)),
        )

    # --- history and status -------------------------------------------------------------------------------------------

    def add(self, entry: HistoryEntry) -> None:
        """Append to the history; the oldest rows go when there are 200 of the app or 10,000 in all."""
        row = tuple(_text(value) for value in (getattr(entry, name) for name in _FIELDS))
        self._database.write(
            (_ADD, row),
            *((prune, (entry.app, entry.app, _HISTORY_OF_APP)) for prune in (_PRUNE_REPAIRS, _PRUNE_REST)),
            ("DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - ?", (_HISTORY,)),
        )

    def history(self, app: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Newest first, in the order of writing, whatever the clock did. None asks for all apps."""
        query, values = (_LIST, (limit,)) if app is None else (_LIST_APP, (app, limit))
        rows = self._database.read(lambda connection: connection.execute(query, values).fetchall())
        return tuple(HistoryEntry(*row) for row in rows)

    def save_status(self, json: str, at: float) -> None:
        """Keep the last status, for when the agent is not running. ``at`` is Unix time."""
        self._database.write(("INSERT OR REPLACE INTO status VALUES (1, ?, ?)", (json, at)))

    def status(self) -> tuple[str, float] | None:
        """The last status and its time."""
        row = self._database.read(lambda connection: connection.execute("SELECT json, at FROM status").fetchone())
        return None if row is None else (str(row[0]), float(row[1]))

    # --- the store itself ---------------------------------------------------------------------------------------------

    def faults(self) -> tuple[tuple[str, str], ...]:
        """(reason, message) of what is wrong with the store. Opens nothing and never raises.

        A database that was moved aside stays a fault until a person removes the copy: suspended apps and quarantines
        went with it, and somebody has to know.
        """
        trouble = self._database.trouble()
        found = [] if trouble is None else [(trouble.reason, str(trouble))]
        return (*found, *(("StoreDamaged", _DAMAGED.format(copy=copy)) for copy in self._database.copies()))

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        self._database.close()


def _versions(connection: sqlite3.Connection) -> dict[str, tuple[Version, ...]]:
    """By app, in the order of writing, whatever the clock did: the last one first."""
    found: dict[str, tuple[Version, ...]] = {}
    for app, *row in connection.execute(
        "SELECT app, fingerprint, image, at, revision, place, reference, before FROM versions ORDER BY id DESC"
    ):
        found[app] = (*found.get(app, ()), Version(*row))
    return found


def _rehearsed(connection: sqlite3.Connection) -> dict[str, Rehearsed]:
    rows = connection.execute("SELECT * FROM rehearsed")
    return {
        app: Rehearsed(fingerprint, previous, bool(ready), *rest) for app, fingerprint, previous, ready, *rest in rows
    }


def _due(connection: sqlite3.Connection) -> dict[str, Due]:
    columns = "app, fingerprint, direction, revision, image, at, cause, message, logs, task"
    rows = connection.execute(f"SELECT {columns} FROM due")  # noqa: S608  (our words)
    return {app: Due(version, Way(*rest[:3]), *rest[3:]) for app, version, *rest in rows}


def _brought(connection: sqlite3.Connection) -> dict[str, Brought]:
    found: dict[str, Brought] = {}
    for image, name, at in connection.execute("SELECT image, name, at FROM brought ORDER BY at"):
        known = found.get(image, Brought(frozenset(), at))
        found[image] = Brought(known.names | {name}, known.at)
    return found


def _text(value: object) -> object:
    # Names in commits may be any bytes; readers let them through as lone surrogates, which SQLite refuses.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value

"""What comes next, what there is, and what the decisions say so far."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from client.console.answers import accepted_labels
from client.console.catalog import COLUMNS, Catalog, Product
from client.console.decisions import Decision, Decisions, Reviewer
from cma_clip.intervals import share_of

DECIDED = "SELECT product FROM decision WHERE kind = 'decided' AND undone IS NULL"
# Neither decided, nor skipped by this session, nor before somebody else's eyes.
OPEN = """
    NOT EXISTS (
        SELECT 1 FROM decision WHERE product = id AND undone IS NULL AND (kind = 'decided' OR session = :session))
    AND NOT EXISTS (SELECT 1 FROM lease WHERE product = id AND until > :now AND session != :session)
"""
STATES = {"": "1", "open": f"id NOT IN ({DECIDED})", "decided": f"id IN ({DECIDED})"}


class Counts(NamedTuple):
    """How far a review is: products that something speaks for a look at, those of them decided, all decided."""

    queued: int
    queued_decided: int
    decided: int


class Estimate(NamedTuple):
    """How many accepted answers to a task are right, by the sample drawn by chance.

    Attributes:
        right, judged: products.
        share: right / judged with its interval (95 %); None of nothing.
        untold: products of the sample of which nobody can tell.
    """

    task: str
    right: int
    judged: int
    untold: int

    @property
    def share(self) -> tuple[float, float, float] | None:
        return share_of(self.right, self.judged) if self.judged else None


class Queue:
    """The products of a catalogue in the order of a review, beside what was decided."""

    def __init__(self, catalog: Catalog, decisions: Decisions) -> None:
        self.catalog, self.decisions = catalog, decisions
        self._settled, self._state = {"rank": 0, "drawn": 0}, (0, 0)
        (self.queued,) = decisions.one("SELECT count(*) FROM product WHERE reason != ''")

    def next(self, reviewer: Reviewer, sampled: bool) -> Product | None:
        """The product to look at, which nobody else is shown meanwhile; None where there is none left.

        Args:
            sampled: of the sample drawn by chance among products with an accepted answer, not of the queue.
        """
        which, order = ("drawn IS NOT NULL", "drawn") if sampled else ("reason != ''", "rank")
        with self.decisions.lock:
            start = self._first_open(which, order)
            rest = f"FROM product WHERE {order} >= {start} AND {which} AND {OPEN} ORDER BY {order} LIMIT 1"
            query = f"SELECT {COLUMNS} {rest}"
            if self.decisions.read_only:
                return self._first(query, reviewer)
            with self.decisions.writing():
                product = self._first(query, reviewer)
                if product:
                    self.decisions.lease(product.id, reviewer)
                return product

    def _first_open(self, which: str, order: str) -> int:
        """Where products begin that are not decided: those before need not be looked through each time. What is undone
        here, or done by another console, begins it anew.
        """
        state = self.decisions.one("PRAGMA data_version")[0], self.decisions.undone
        if state != self._state:
            self._settled, self._state = {"rank": 0, "drawn": 0}, state
        query = f"""SELECT {order} FROM product WHERE {order} >= ? AND {which} AND NOT EXISTS (
            SELECT 1 FROM decision WHERE product = id AND undone IS NULL AND kind = 'decided')
            ORDER BY {order} LIMIT 1"""
        first: int = self.decisions.one(query, self._settled[order])[0] or self._settled[order]
        self._settled[order] = first
        return first

    def _first(self, query: str, reviewer: Reviewer) -> Product | None:
        values = {"session": reviewer.session, "now": time.time()}
        row = self.decisions.connection.execute(query, values).fetchone()
        return Product.of(row) if row else None

    def page(self, after: int, most: int, state: str = "", task: str = "", reason: str = "") -> list[tuple[Any, ...]]:
        """Rank, whether decided, and the values of a Product, of those of a higher rank."""
        chosen = [STATES[state], "rank > :after"]
        chosen += ["task = :task"] if task else []
        chosen += ["reason = :reason"] if reason else []
        query = (
            f"SELECT rank, id IN ({DECIDED}), {COLUMNS} FROM product WHERE {' AND '.join(chosen)}"
            " ORDER BY rank LIMIT :most"
        )
        with self.decisions.lock:
            values = {"after": after, "most": most, "task": task, "reason": reason}
            return self.decisions.connection.execute(query, values).fetchall()

    def reasons(self) -> list[tuple[str, str, int, int]]:
        """Task, reason, products that are looked at for it, and those of them that are decided; most products first."""
        query = f"""SELECT task, reason, count(*), sum(id IN ({DECIDED})) FROM product WHERE reason != ''
            GROUP BY task, reason ORDER BY count(*) DESC, task, reason"""
        return [(task, reason, count, decided) for task, reason, count, decided in self.decisions.all(query)]

    def counts(self) -> Counts:
        query = f"SELECT count(*), coalesce(sum(reason != ''), 0) FROM product WHERE id IN ({DECIDED})"
        decided, queued_decided = self.decisions.one(query)
        return Counts(self.queued, queued_decided, decided)

    def estimates(self) -> list[Estimate]:
        """Of each task. The sample ends with the last product decided as one of it; those of it that were decided in
        the queue before count too, as leaving them out would favour the rest.
        """
        query = f"""SELECT {", ".join(f"d.{name}" for name in Decision._fields)} FROM product p
            JOIN decision d ON d.product = p.id AND d.kind = 'decided' AND d.undone IS NULL
            WHERE p.drawn <= (
                SELECT max(drawn) FROM product JOIN decision ON product = id
                WHERE kind = 'decided' AND undone IS NULL AND sampled)"""
        decided = [Decision.of(row) for row in self.decisions.all(query)]
        return [self._estimate(task.name, decided) for task in self.catalog.tasks]

    def _estimate(self, task: str, decided: list[Decision]) -> Estimate:
        right = judged = untold = 0
        for decision in decided:
            said = accepted_labels(decision.said[task]) if task in decision.said else []
            if said and task in decision.labels:
                true = decision.labels[task]
                if true is None and task in self.catalog.tasks.not_asked(decision.labels):
                    true = []  # then no label is right
                untold += true is None
                judged += true is not None
                right += true is not None and set(said) <= set(true)
        return Estimate(task, right, judged, untold)

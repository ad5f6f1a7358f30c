"""Say what a data set is: what its rows tell, and what its card tells where it has one."""

from __future__ import annotations

from packbench import datasets
from packbench.leaderboard.entries import Board

# What only a card knows, by the key it is written under.
TOLD = {
    "title": "Title", "description": "Description", "origin": "Origin", "encoder": "Encoder", "licence": "Licence",
    "citation": "Citation",
}  # fmt: skip


def card_of(board: Board) -> list[tuple[str, str]]:
    """Return the facts of a data set as labels and texts; those of its card only where the data set has one."""
    card = datasets.card(board.dataset) if board.dataset in datasets.names() else {}
    facts = [("Name", board.dataset)]
    facts += [(label, " ".join(str(card[key]).split())) for key, label in TOLD.items() if card.get(key)]
    if "mrl_trained" in card:
        trained = "yes: leading dimensions may be kept" if card["mrl_trained"] else "no: truncation is naive"
        facts.append(("Matryoshka-trained", trained))
    known = {"n": board.n, "d": board.d, "metric": board.metric}
    other = [f"{key} = {card[key]}" for key, value in known.items() if card.get(key, value) != value]
    if other:
        facts.append(("Note", f"the card is of another version of the data: it says {', '.join(other)}"))
    where = {"disjoint": "not among the items", "items": "of the items themselves"}.get(board.fit_on, board.fit_on)
    facts += [
        ("Items", f"{board.n:,}"), ("Dimensions", f"{board.d:,}"), ("Metric", board.metric),
        ("Test queries", f"{board.queries:,}"),
        ("Judged queries", f"{board.judged:,}" if board.judged else "none: quality is recall of exact neighbours"),
        ("Fit sample", f"{board.fit_items:,} vectors, {where}"),
        ("sha256", board.dataset_sha256),
    ]  # fmt: skip
    return facts

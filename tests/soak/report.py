"""``docs/soak.md``: what a soak was, what it found, and the figures that its verdict rests on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from statistics import median

from app.node.records.audit import AuditEvent
from app.node.upkeep.retention import ASKED_BY
from tests.soak.resources import LIMITS, MIN_SAMPLES, Sample, growth, what_grows
from tests.soak.schedule import LAST_LIFE
from tests.soak.world import SoakWorld

COLUMNS = (
    ("memory_mb", "memory, MB", 0),
    ("descriptors", "descriptors", 0),
    ("threads", "threads", 0),
    ("ledgers_mb", "ledgers, MB", 1),
    ("engine_mb", "engine's database, MB", 1),
    ("inbox_mb", "images, MB", 1),
)
SHOWN_SAMPLES = 5

WHAT_IT_IS = """\
One node with a pretended chain lives through the whole run; everything else is the real thing, from
app.yaml to SIGHUP. The senders, one of them DCMTK's storescu, send PET/CT, SPECT/CT and what is none
of both, whole, in pieces, twice, slowly, with broken and aborted associations, in another encoding,
the last image late; in some studies the chain fails until a person who is told by the webhook has it
tried again. One destination takes charge by storage commitment, the other only acknowledges. Meanwhile
disturbances happen one after the other, and in the first half the node is killed or stopped now and
then; its last life has the second half. From the second life on retention removes what has had its
time. Metrics and probes are asked every few seconds.

All is well when each image that was acknowledged is in the index once, and in a file with the content that
was sent, unless retention removed its study; each study is done, or rejected where its headers say so; the
last revision was made of all images, and both destinations have each of its results, and none that no
revision explains; the audit log's chain holds; each failure was told by the webhook; no life of the node
ended otherwise than it was told to; and memory, descriptors, threads and processes are flat.

Flat means: of the samples of a life, the median of the last quarter is above that of the second by no more
than {limits}. The first quarter is for warming up; half a life's work lies between the other two; a life with
fewer than {fewest} samples is too short to be judged. Samples are taken every {sample_s:g} s from /proc, of
the node's process with its children. The ledgers keep rows of every study for good: their file may grow."""


def verdict(here: SoakWorld, wrong: Sequence[str]) -> list[str]:
    """Everything that is wrong, what grows too."""
    found = list(wrong)
    for number, life in sorted(here.samples.items()):
        found += [f"life {number}: {line}" for line in what_grows(life)]
    found += [f"probes: {words}" for words in here.scraped if words.startswith("/healthz 5")]
    found += [f"log: {event}" for event in here.errors_logged() if event.startswith("a thread ended")]
    return found


def report(here: SoakWorld, found: Sequence[str], command: str, of_commit: str) -> str:
    """The page; ``found`` is the :func:`verdict`."""
    limits = ", ".join(f"{one.least:g} {one.unit}" for one in LIMITS[:-1])
    shares = ", ".join(f"{one.share:.0%}" for one in LIMITS[:-1])
    words = f"{limits} (or {shares} of what was there, if that is more)"
    return "\n".join(
        [
            "# Soak",
            "",
            f"Made by `make soak` (`{command}`), {datetime.now(UTC):%Y-%m-%d}, commit {of_commit}.",
            "",
            *WHAT_IT_IS.format(limits=words, sample_s=here.scale.sample_s, fewest=MIN_SAMPLES).splitlines(),
            "",
            f"**{'Something is wrong' if found else 'All is well'}.**",
            *(f"- {line}" for line in found),
            "",
            "## Studies",
            "",
            *_studies(here),
            "",
            "## Disturbances",
            "",
            *_disturbances(here),
            "",
            "## Resources",
            "",
            *_lives(here),
            "",
            *_last_life(here),
            "",
            "## Errors in the log",
            "",
            *_errors(here),
            "",
        ]
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "| --- " * len(cells) + "|"]


def _studies(here: SoakWorld) -> Iterator[str]:
    yield from _head(
        "sender", "studies", "done", "rejected", "other ends", "images acknowledged", "failed, told, retried"
    )
    ends, failed = here.ends(), here.failed()
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    acknowledged = here.acknowledged()
    for one in here.plan:
        end = ends.get(one.study, "unknown")
        facts = {
            "studies": 1,
            end if end in ("done", "rejected") else "other": 1,
            "images": acknowledged[one.study],
            "failed": int(one.study in failed),
        }
        rows[one.title].update(facts)
        rows["**all**"].update(facts)
    for name, row in rows.items():
        if name != "**all**":
            yield _study_row(name, row)
    yield _study_row("**all**", rows["**all**"])
    yield ""
    yield from _beside(here)


def _study_row(name: str, row: Counter[str]) -> str:
    return _row(name, *(row[key] for key in ("studies", "done", "rejected", "other", "images", "failed")))


def _beside(here: SoakWorld) -> Iterator[str]:
    """What the audit log and the destinations say."""
    entries = here.entries()
    events = Counter(entry["event"] for entry in entries)
    removed = {
        entry["study"]
        for entry in entries
        if entry["event"] == str(AuditEvent.STUDY_REMOVED) and entry["facts"]["asked_by"] == ASKED_BY
    }
    ways = Counter(one.way for one in here.plan)
    yield f"How they were sent: {', '.join(f'{count} {way}' for way, count in ways.most_common())}."
    yield ""
    revisions = events[str(AuditEvent.STUDY_RECEIVED)]
    again = here.sent_again() - here.pacs.lost
    yield f"{revisions} revisions; {len(removed)} studies whose images retention removed; {len(entries)}"
    yield f"lines in the audit log; {len(here.hook.bodies)} messages of the webhook. {here.pacs.lost} results"
    yield f"that the first destination acknowledged and lost were found out and sent again; {again} others"
    yield "reached a destination a second time under the same UID, which it keeps once: their answer had been"
    yield "lost on its way."


def _disturbances(here: SoakWorld) -> Iterator[str]:
    yield from _head("what", "times", "seconds in all")
    times, seconds = Counter(one.words for one, _ in here.done), defaultdict[str, float](float)
    for one, _ in here.done:
        seconds[one.words] += one.lasts_s
    for words, count in sorted(times.items()):
        yield _row(words, count, f"{seconds[words]:.0f}" if seconds[words] else "–")
    yield ""
    asked = ", ".join(f"{count} × {words}" for words, count in sorted(here.scraped.items()))
    yield f"Answers of the probes: {asked}."


def _lives(here: SoakWorld) -> Iterator[str]:
    yield from _head("life", "seconds", "ended by", *(name for _, name, _ in COLUMNS))
    ends = [one.words for one, _ in here.done if one.signal is not None]
    for number, life in sorted(here.samples.items()):
        if len(life) < SHOWN_SAMPLES:
            continue
        end = ends[number - 1] if number <= len(ends) else "SIGTERM, at the end"
        lasted = f"{life[-1].at_s - life[0].at_s:.0f}"
        yield _row(number, lasted, end, *(_figures(life, name, digits) for name, _, digits in COLUMNS))
    yield ""
    yield "Each cell: first / median / last / largest sample."


def _figures(life: Sequence[Sample], name: str, digits: int) -> str:
    values = [float(getattr(one, name)) for one in life]
    return " / ".join(f"{value:.{digits}f}" for value in (values[0], median(values), values[-1], max(values)))


def _last_life(here: SoakWorld) -> Iterator[str]:
    yield "The last life, judged:"
    yield ""
    yield from _head("what", "second quarter", "last quarter", "growth", "allowed")
    life = here.samples[max(here.samples)] if here.samples else []
    quarter = len(life) // 4
    for limit in LIMITS:
        values = [float(getattr(one, limit.name)) for one in life]
        more = growth(values)
        if more is None:
            yield _row(limit.name.replace("_mb", ", MB"), "–", "–", "too short to be judged", "–")
            continue
        before, after = median(values[quarter : 2 * quarter]), median(values[-quarter:])
        allowed = max(limit.least, limit.share * before)
        cells = (f"{value:.1f}" for value in (before, after))
        yield _row(limit.name.replace("_mb", ", MB"), *cells, f"{more:+.1f}", f"{allowed:.1f}")
    if quarter and (studies := len(here.plan)):
        # SQLite's log beside its file has its size only once the node has worked for a while
        kb = (life[-1].ledgers_mb - life[quarter].ledgers_mb) * 1000 / (0.75 * studies * (1 - LAST_LIFE))
        yield ""
        yield f"The ledgers grew by about {kb:.0f} kB for each study of this life."


def _errors(here: SoakWorld) -> Iterator[str]:
    yield from _head("event", "times")
    for event, count in here.errors_logged().most_common():
        yield _row(event.replace("|", "/"), count)

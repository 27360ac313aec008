"""What must happen to each study of the data folder of version 0.1.0 after an upgrade: part of its manifest.

It runs with the code of commit 124f28a alone, as :mod:`tests.legacy.make_data_folder` does; its imports stay
as they are when files move.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tests.legacy.pretended_chain import PARTS
from tests.node_workflow.fake_node import KINDS, derived_uid

A, B = "pacs-a", "pacs-b"


@dataclass(frozen=True)
class End:
    """Where a study comes to rest, and what each destination has received by then.

    Attributes:
        words: in the plain words of the manifest.
        kinds: results of the latest revision that are sent on the way there, by destination.
        reason_holds: what the reason has to mention, however it is worded.
    """

    words: str
    state: str
    revision: int = 1
    kinds: tuple[tuple[str, tuple[str, ...]], ...] = ()
    reason_holds: tuple[str, ...] = ()

    def content(self, study: str) -> dict[str, Any]:
        """As in the manifest."""
        return {
            "words": self.words,
            "state": self.state,
            "revision": self.revision,
            "reason_holds": list(self.reason_holds),
            "arrives": {
                destination: [derived_uid(study, kind, self.revision) for kind in kinds]
                for destination, kinds in self.kinds
            },
        }


@dataclass(frozen=True)
class Step:
    """What is done to a study once all have come to rest; ``do`` is a command, or an image that is sent."""

    do: tuple[str, ...]
    end: End
    image: int = 0


def _sent(*names: str, kinds: Iterable[str] = KINDS) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, tuple(kinds)) for name in names)


EVERYTHING = _sent(A, B)
STAYS = "stays done, is not sent again"
GOES_ON = End("is processed, its results are delivered", "done", kinds=EVERYTHING)
UNITS = ("units-unsupported",)

AT_REST = {
    "pet done": End(STAYS, "done"),
    "spect done": End(f"{STAYS}; two shadow comparisons are kept", "done"),
    "second revision": End(f"{STAYS}; revision 2 stands", "done", 2),
    "analysed again": End(f"{STAYS}; the content is that of revision 2", "done", 2),
    "conflict": End(f"{STAYS}; one instance has two contents", "done"),
    "spect before its pet": End(
        f"{STAYS}; status names the late PET/CT", "done", reason_holds=(PARTS["late pet"].uid,)
    ),
    "late pet": End(f"{STAYS}; registered as prior", "done"),
    "withdrawn": End("stays rejected; the withdrawal is not sent again", "rejected", 2, reason_holds=UNITS),
    "rejected": End("stays rejected", "rejected", reason_holds=UNITS),
    "failed for good": End("stays failed: three tries", "failed", reason_holds=("ValueError",)),
    "refused by a destination": End("stays failed: pacs-b refused the SEG", "failed", reason_holds=("A900",)),
    "failed until 2121": End("stays failed: its next try is far off", "failed", reason_holds=("ValueError",)),
    "failed for a moment": replace(GOES_ON, words="its second try is due; it is processed and delivered"),
    "postponed": replace(GOES_ON, words="its next try is due; it is processed and delivered"),
    "one destination down": End("pacs-b still has to acknowledge all three", "done", kinds=_sent(B)),
    "sent again": End("pacs-b still has to acknowledge all three once more", "done", kinds=_sent(B)),
    "cut off while sending": End(
        "pacs-b has the report, and still has to acknowledge SEG and page",
        "done",
        kinds=_sent(B, kinds=[kind for kind in KINDS if kind != "SR"]),
    ),
    "running": replace(GOES_ON, words="its chain begins anew, its results are delivered"),
    "running elsewhere": replace(GOES_ON, words="node-b is dead: node-a takes it over and delivers"),
    "queued": GOES_ON,
    "grown in the queue": replace(GOES_ON, words="revision 1 is superseded, 2 is delivered", revision=2),
    "waiting for an image": End("waits on: its image has not come", "waiting", 0, reason_holds=("1 of 2",)),
    "held for its prior": End(
        "is held on: its PET/CT still waits", "queued", reason_holds=(PARTS["waiting for an image"].uid,)
    ),
    "no image yet": End("waits on: a page alone can't be analysed", "waiting", 0),
    "receiving": replace(GOES_ON, words="is quiet now, so complete; it is processed and delivered"),
    "growing after it was done": replace(GOES_ON, words="its late image makes revision 2", revision=2),
}
"""Without anybody's doing, once the node of the new version has been started."""

STEPS = {
    "pet done": Step(("retry", "--resend"), End("everything is sent once more", "done", kinds=EVERYTHING)),
    "spect before its pet": Step(
        ("retry", "--again"), End("revision 2 is delivered", "done", 2, kinds=EVERYTHING)
    ),
    "rejected": Step(("retry",), GOES_ON),
    "failed for good": Step(("retry",), GOES_ON),
    "refused by a destination": Step(
        ("retry",), End("pacs-b gets the SEG alone", "done", kinds=_sent(B, kinds=["SEG"]))
    ),
    "failed until 2121": Step(("retry",), GOES_ON),
    "waiting for an image": Step((), replace(GOES_ON, words="complete; it is processed and delivered"), 2),
    "held for its prior": Step((), replace(GOES_ON, words="goes on once its PET/CT has ended")),
    "no image yet": Step((), replace(GOES_ON, words="complete; it is processed and delivered"), 1),
}
"""Then, in this order."""


def afterwards(name: str) -> dict[str, Any]:
    """What the manifest says of a study's future."""
    study = PARTS[name].uid
    content: dict[str, Any] = {"at_rest": AT_REST[name].content(study)}
    if name in STEPS:
        step = STEPS[name]
        content["step"] = {"command": list(step.do), "image": step.image, "end": step.end.content(study)}
    return content

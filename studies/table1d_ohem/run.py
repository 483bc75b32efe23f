"""Table 1d: OHEM, OHEM 1:3 and SSD mining against the focal loss. Command, numbers, what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study


def ohem(mining: str, count: int, nms: float) -> Row:
    named = {"ohem": "OHEM", "ohem_1_3": "OHEM 1:3"}[mining]
    changes = {"loss.mining": mining, "loss.mining_count": count, "loss.mining_nms": nms}
    return Row(f"{named} {count}, NMS {nms:g}", {"loss.name": "cross_entropy", **changes})


COUNTS = (128, 256, 512)

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Table 1d: picking anchors or weighing them",
    rows=(
        *(ohem("ohem", count, 0.7) for count in COUNTS),
        *(ohem("ohem", count, 0.5) for count in COUNTS),
        *(ohem("ohem_1_3", count, 0.5) for count in COUNTS),
        Row("SSD 1:3", {"loss.name": "cross_entropy", "loss.mining": "ssd"}),
        Row("FL", {"loss.name": "focal", "loss.gamma": 2.0, "loss.alpha": 0.25}),
    ),
    baseline="FL",
    pairs=(
        ("OHEM 1:3 128, NMS 0.5", "OHEM 128, NMS 0.5"),
        ("OHEM 128, NMS 0.7", "OHEM 128, NMS 0.5"),
        ("SSD 1:3", "OHEM 128, NMS 0.7"),
    ),
    at_paper_scale={"model.backbone": "resnet101"},
)

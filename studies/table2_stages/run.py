"""Table 2: one stage against two on one pyramid. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study
from studies.table2_stages.two_stages import TwoStages

# Of a two-stage row the config's anchors, assignment and loss are those of the first stage: one scale a level (Lin et
# al. 2017), objects from IoU .7, background below .3, every object's best anchor, cross entropy (Ren et al. 2015).
FIRST_STAGE = {
    "anchors.scales": (1.0,),
    "assignment.positive_iou": 0.7,
    "assignment.background_iou": 0.3,
    "assignment.low_quality": "all",
    "loss.name": "cross_entropy",
}

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Table 2: one stage against two",
    rows=(
        Row("one stage, FL", {"loss.name": "focal", "loss.gamma": 2.0, "loss.alpha": 0.25}),
        Row("one stage, SSD 1:3", {"loss.name": "cross_entropy", "loss.mining": "ssd"}),
        Row("two stages, 1:3 sampling", FIRST_STAGE, method=TwoStages("random")),
        Row("two stages, OHEM", FIRST_STAGE, method=TwoStages("hardest")),
    ),
    baseline="one stage, FL",
    at_paper_scale={"model.backbone": "resnet101"},
)

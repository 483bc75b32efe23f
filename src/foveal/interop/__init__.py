"""`Detections` to and from supervision, COCO results, pandas and Arrow, FiftyOne and Label Studio.

Every `from_` sorts by score, since `Detections` have the best first; what has no score, as what a person drew, has 1.
"""

from foveal.interop.coco_results import from_coco, to_coco
from foveal.interop.fiftyone import from_fiftyone, to_fiftyone
from foveal.interop.label_studio import from_label_studio, to_label_studio
from foveal.interop.supervision import from_supervision, to_supervision
from foveal.interop.tables import from_arrow, from_pandas, to_arrow, to_pandas

__all__ = [
    "from_arrow",
    "from_coco",
    "from_fiftyone",
    "from_label_studio",
    "from_pandas",
    "from_supervision",
    "to_arrow",
    "to_coco",
    "to_fiftyone",
    "to_label_studio",
    "to_pandas",
    "to_supervision",
]

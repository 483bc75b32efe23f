"""What the run that these tests push is made of: much of it is nobody's business."""

CLASSES = ("cat", "dog")
DATA = "/home/someone/secret-project/cells"
TINY = {
    "model.backbone": "mobilenet_v2",
    "model.weights": "/home/someone/weights/own-net.pth",
    "model.levels": "3-5",
    "model.pyramid_channels": 8,
    "model.head_channels": 8,
    "model.head_depth": 1,
    "data.oversample": "/home/someone/mined/hardest.txt",
    "data.workers": 7,
}
EVALUATION = {"step": 40, "AP": 0.51, "AP50": 0.745, "recommended_f1": 0.7, "threshold": 0.5, "images": 100}

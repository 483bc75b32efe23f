"""Uses a file of `foveal export RUN` without Foveal: numpy, Pillow and onnxruntime are all it needs.

python onnx_alone.py model.onnx smear.jpg found.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

model, picture, drawn = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
metadata = session.get_modelmeta().custom_metadata_map
names = json.loads(metadata["class_names"])
threshold = json.loads(metadata["show_from"])  # as `foveal predict` has it

image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": np.asarray(image)[None]})

draw = ImageDraw.Draw(image)
for box, score, label in zip(boxes[0], scores[0], labels[0], strict=True):
    if label >= 0 and score >= threshold:  # places without a detection have label -1
        print(f"{names[label]} {score:.2f} at", *(f"{side:.1f}" for side in box))
        draw.rectangle(box.tolist(), outline="red", width=2)
        draw.text((box[0], box[1]), f"{names[label]} {score:.2f}", fill="red")
image.save(drawn)

"""Exported files as engines: the same detections from ONNX Runtime, OpenVINO or torch.export's program."""

"""Files that run without Foveal: ONNX, OpenVINO, torch.export; none is left that disagrees with the run."""

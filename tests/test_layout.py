"""Imports run one way: a file imports only files above it in this list."""

import ast
from pathlib import Path

import foveal

ROOT = Path(foveal.__file__).parent

ORDER = """
errors compiled wording names free_memory config detections boxes nms anchors reach grid_matching
compiled_matching matching_kernels triton_matching matching
losses.arguments losses.classification losses.once losses.background losses.fused losses.boxes losses.mining
losses.loss_kernels losses.triton_loss losses.total
model.torch_pickle model.torch_files model.weights
model.backbone model.resnet model.mobilenet model.transformers_files model.transformers_backbone
model.pyramid model.heads model.retinanet
candidates padded_decoding decoding
data.table data.images data.arrays data.layout data.labels data.coco_file data.coco data.voc data.yolo_file
data.yolo data.csv data.detect
data.augment data.plan data.loader data.painting data.scenes
drawing
interop.assembling interop.supervision interop.coco_results interop.tables interop.fiftyone interop.label_studio
hub.addresses hub.strangers hub.fetching
engine.allocator engine.progress engine.schedule engine.checkpoint engine.run_numbers engine.compilation engine.ema
engine.usable engine.class_names
engine.predict engine.tiles engine.sources engine.results engine.drawn engine.files
engine.metrics engine.evaluation engine.coco_metric engine.scoring engine.scored_files engine.evaluate
engine.coverage engine.anchor_fit engine.contents engine.picture_check engine.similar_names
engine.inspection_text engine.inspect
engine.step engine.diagnosis engine.memory engine.interruption engine.metrics_log
engine.preparation engine.budget engine.train engine.demo
analysis.finite analysis.folders analysis.label_errors analysis.hard_examples analysis.mined_files analysis.retraining
analysis.bootstrapping
analysis.logit_counts analysis.loss_shares analysis.loss_text analysis.loss_distribution analysis.loss_figures
importers.array_pickle importers.weight_files importers.folding importers.converted
importers.classes importers.mmdetection_config
importers.torchvision importers.deepforest importers.detectron2 importers.mmdetection importers.yhenon importers.fizyr
importers.importing
runtime.publishing runtime.description runtime.sessions runtime.exported
export.graph export.pixels export.boxes export.network export.assembly export.formats export.agreement
export.quantising export.placing export.exporting export.benchmarking
hub.model_card hub.pushing
commands cli
""".split()


def modules() -> list[str]:
    found = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")]
    return [name for name in found if not name.endswith("__init__")]


def imports(module: str) -> set[str]:
    """The modules of ours that a module imports anywhere, type-checking blocks apart."""
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("foveal")
            and id(node) not in typing_only
        ):
            base = node.module.removeprefix("foveal").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in ORDER else base)
    return found - {""}


def test_every_file_has_its_place():
    assert sorted(modules()) == sorted(ORDER)


def test_imports_run_one_way():
    wrong = [
        f"{module} imports {other}"
        for module in modules()
        for other in imports(module)
        if other != module and ORDER.index(other) > ORDER.index(module)
    ]
    # A detection draws itself: the one convenience that reaches down, inside a method.
    assert wrong == ["detections imports drawing"]

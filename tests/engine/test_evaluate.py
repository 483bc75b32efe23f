"""Whole evaluations: equal to pycocotools and to published numbers, sound for empty data, readable, JSON-ready."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from foveal.config import Config
from foveal.data.detect import read_data
from foveal.data.table import Problem, Table, TableBuilder
from foveal.detections import Detections, DetectionTable
from foveal.engine import evaluate as evaluating
from foveal.engine.checkpoint import RunInfo
from foveal.engine.evaluate import evaluate, evaluate_detections, evaluate_files, recommended_threshold
from foveal.engine.evaluation import NUMBERS
from foveal.engine.predict import Detector
from foveal.errors import UsageError


def small_table(names=("cell", "platelet"), image_ids=(1, 2, 3)) -> Table:
    """A cell and a platelet in the first picture, a cell in the second, nothing in the third."""
    builder = TableBuilder(".", "test", "coco")
    objects = [[((0, 0, 40, 40), 0), ((60, 60, 70, 70), 1)], [((10, 10, 50, 50), 0)], []]
    for image_id, here in zip(image_ids, objects, strict=True):
        builder.add_image(f"{image_id}.png", (100, 100), image_id)
        for box, label in here:
            builder.add_object(box, label)
    return builder.build(names)


def detections(*rows) -> DetectionTable:
    """(row, label, score, x1, y1, x2, y2) each."""
    values = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
    return DetectionTable(values[:, 0].long(), values[:, 3:].float(), values[:, 2].float(), values[:, 1].long())


PERFECT = detections((0, 0, 0.9, 0, 0, 40, 40), (0, 1, 0.4, 60, 60, 70, 70), (1, 0, 0.8, 10, 10, 50, 50))


def write(folder: Path, truth: dict, results: list) -> tuple[Path, Path]:
    paths = folder / "results.json", folder / "truth.json"
    paths[0].write_text(json.dumps(results))
    paths[1].write_text(json.dumps(truth))
    return paths


def random_case(seed: int) -> tuple[dict, list]:
    """Pictures with gaps in their ids, crowds, areas unlike the boxes', equal scores, more than 100 detections."""
    draw = np.random.default_rng(seed)
    images = draw.permutation(np.arange(3, 90, 6)).tolist()
    categories = [3, 7, 8, 90]
    annotations, results = [], []
    for image in images:
        for _ in range(draw.poisson(5)):
            x, y, w, h = draw.integers(0, 60, 4) * draw.choice([1, 3.3])
            area = float((w + 1) * (h + 1) * draw.uniform(0.4, 1.0))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(draw.choice(categories[:3])),
                    "bbox": [x, y, w + 1, h + 1],
                    "area": area,
                    "iscrowd": int(draw.random() < 0.15),
                }
            )
            for _ in range(draw.integers(0, 3)):
                shift = draw.integers(-2, 3, 4)
                results.append(
                    {
                        "image_id": image,
                        "category_id": annotations[-1]["category_id"],
                        "bbox": [float(v) for v in np.array([x, y, w + 3, h + 3]) + shift],
                        "score": round(float(draw.random()), 1),
                    }
                )
    crowded = {"image_id": images[0], "category_id": 3, "bbox": [0.0, 0.0, 5.0, 5.0]}
    results += [crowded | {"score": round(float(draw.random()), 3)} for _ in range(130)]
    truth = {
        "images": [{"id": image, "width": 300, "height": 300} for image in images],
        "annotations": annotations,
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in categories],
    }
    return truth, results


def pycocotools_says(results: Path, truth: Path) -> tuple[list[float], np.ndarray]:
    """The 12 numbers and AP, AP50 of every class, -1 where there are no objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(truth))
        evaluator = COCOeval(objects, objects.loadRes(str(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    known = np.where(precision[0, 0] > -1, 1, -1)
    return list(evaluator.stats), np.stack((precision.mean(axis=(0, 1)), precision[0].mean(axis=0), known))


def as_coco(value: float | None) -> float:
    return -1 if value is None else value


@pytest.mark.parametrize("seed", range(4))
def test_files_are_scored_as_pycocotools_scores_them(tmp_path, seed):
    results, truth = write(tmp_path, *random_case(seed))
    stats, per_class = pycocotools_says(results, truth)
    found = evaluate_files(results, truth)
    assert [as_coco(found.numbers[name]) for name in NUMBERS] == pytest.approx(stats, abs=1e-12)
    assert 0.2 < stats[0] < 0.9
    for one, (ap, ap50, known) in zip(found.per_class.values(), per_class.T, strict=True):
        assert (as_coco(one.ap), as_coco(one.ap50)) == (pytest.approx(ap, abs=1e-12), pytest.approx(ap50, abs=1e-12))
        assert (one.ap is None) == (known < 0)


def test_a_table_is_scored_as_pycocotools_scores_its_boxes(tmp_path):
    truth, results = random_case(9)
    for entry in truth["annotations"]:
        entry["bbox"] = [float(np.float32(v)) for v in np.round(entry["bbox"])]
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    stats, _ = pycocotools_says(*write(tmp_path, truth, results))
    builder = TableBuilder(".", "test", "coco")
    rows = {}
    labels = {category["id"]: label for label, category in enumerate(truth["categories"])}
    for image in truth["images"]:
        rows[image["id"]] = builder.num_images
        builder.add_image(f"{image['id']}.jpg", (300, 300), image["id"])
        for entry in truth["annotations"]:
            if entry["image_id"] == image["id"]:
                x, y, w, h = entry["bbox"]
                builder.add_object((x, y, x + w, y + h), labels[entry["category_id"]], bool(entry["iscrowd"]))
    table = builder.build(tuple(category["name"] for category in truth["categories"]))
    boxes = np.array([entry["bbox"] for entry in results])
    boxes[:, 2:] += boxes[:, :2]
    found = DetectionTable(
        rows=torch.tensor([rows[entry["image_id"]] for entry in results]),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor([entry["score"] for entry in results]),
        labels=torch.tensor([labels[entry["category_id"]] for entry in results]),
    )
    numbers = evaluate_detections(table, found).numbers
    assert [as_coco(numbers[name]) for name in NUMBERS] == pytest.approx(stats, abs=1e-6)


def test_a_data_set_with_masks_and_crowds_is_scored_as_pycocotools_scores_its_file(coco_small, tmp_path):
    file = coco_small / "permissive.json"
    truth = json.loads(file.read_text())
    table = read_data(coco_small)
    assert table.crowd.any()
    draw = torch.Generator().manual_seed(0)
    boxes = table.boxes + 6 * torch.randn(table.boxes.shape, generator=draw)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    rows = torch.repeat_interleave(torch.arange(len(table)), table.first_object.diff())
    found = DetectionTable(rows, boxes, torch.rand(len(rows), generator=draw), table.labels.long())
    results = [
        {
            "image_id": int(table.image_ids[row]),
            "category_id": table.category_ids[label],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": score,
        }
        for row, box, score, label in zip(
            rows.tolist(), boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]
    stats, _ = pycocotools_says(*write(tmp_path, truth, results))
    numbers = evaluate_detections(table, found).numbers
    assert [as_coco(numbers[name]) for name in NUMBERS] == pytest.approx(stats, abs=1e-6)


def test_sizes_follow_the_areas_that_the_labels_state():
    table = small_table()
    assert evaluate_detections(table, PERFECT).numbers["APs"] == pytest.approx(1)  # the platelet, 10 x 10
    stated = replace(table, areas=torch.tensor([1600.0, 1025.0, 1600.0]))
    assert evaluate_detections(stated, PERFECT).numbers["APs"] is None
    assert stated.select([1, 0]).areas.tolist() == [1600, 1600, 1025]
    assert len(table.select([1, 0]).areas) == 0


OFFICIAL = {f"{kind}{size}": f"{kind}{size[0]}" for kind in ("AP", "AR") for size in ("small", "medium", "large")}


def check_published(found, published: dict, per_category: dict, category_ids: list[int]) -> None:
    assert len(published) == 12
    for name, value in published.items():
        assert as_coco(found.numbers[OFFICIAL.get(name, name)]) == pytest.approx(value, abs=1e-6), name
    assert len(per_category) == len(found.per_class)
    for id_, one in zip(sorted(category_ids), found.per_class.values(), strict=True):
        assert [as_coco(one.ap), as_coco(one.ap50)] == pytest.approx(per_category[str(id_)], abs=1e-6)


@pytest.mark.parametrize("name", ["coco_fakebbox100", "voc_100"])
def test_published_coco_numbers(eval_fixtures, name):
    folder = eval_fixtures / name
    expected = json.loads((folder / "expected.json").read_text())
    truth = json.loads((folder / "ground_truth.json").read_text())
    found = evaluate_files(folder / "detections.json", folder / "ground_truth.json")
    ids = [category["id"] for category in truth["categories"]]
    check_published(found, expected["pycocotools"], expected["per_category_AP_AP50"], ids)


@pytest.mark.parametrize("name", ["_inputs", "_inputs2", "_inputs3"])
def test_published_numbers_of_odd_cases(eval_fixtures, tmp_path, name):
    case = json.loads((eval_fixtures / "torchmetrics" / "cases.json").read_text())[name]
    found = evaluate_files(*write(tmp_path, case["ground_truth"], case["detections"]))
    ids = [category["id"] for category in case["ground_truth"]["categories"]]
    check_published(found, case["pycocotools"], case["per_category_AP_AP50"], ids)


def test_perfect_detections_score_one():
    found = evaluate_detections(small_table(), PERFECT)
    assert (found.ap, found.ap50) == (pytest.approx(1), pytest.approx(1))
    assert found.numbers["APl"] is None
    assert (found.counts.true, found.counts.false, found.counts.missed) == (2, 0, 1)  # the platelet has only .4
    assert recommended_threshold(found) == pytest.approx(0.4)
    assert found.per_class["cell"].recommended_threshold == pytest.approx(0.8)
    assert found.per_class["cell"].images == 2
    assert found.confusion.tolist() == [[2, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert (found.images, found.objects, found.detections) == (3, 3, 3)


def test_the_threshold_keeps_detections_that_reach_it():
    assert evaluate_detections(small_table(), PERFECT, threshold=recommended_threshold(evaluated())).counts.true == 3


def evaluated():
    return evaluate_detections(small_table(), PERFECT)


def test_the_order_of_detections_and_of_pictures_does_not_matter():
    shuffled = PERFECT[torch.tensor([2, 0, 1])]
    assert evaluate_detections(small_table(), shuffled).as_dict() == evaluated().as_dict()
    assert evaluate_detections(small_table(image_ids=(9, 4, 5)), PERFECT).as_dict() == evaluated().as_dict()


def test_without_detections_everything_is_missed():
    found = evaluate_detections(small_table(), DetectionTable.of([(0, Detections.empty())]))
    assert (found.ap, found.counts.missed, found.counts.precision) == (0, 3, None)
    assert recommended_threshold(found) is None


@pytest.mark.parametrize("metric", ["coco", "voc07", "voc12"])
def test_without_objects_there_is_no_ap(metric):
    builder = TableBuilder(".", "test", "coco")
    builder.add_image("empty.png", (10, 10))
    found = evaluate_detections(builder.build(("cell",)), detections((0, 0, 0.9, 0, 0, 4, 4)), metric=metric)
    assert found.ap is None
    assert found.per_class["cell"].ap is None
    assert found.counts.false == 1
    assert str(found)
    empty = evaluate_detections(TableBuilder(".", "test", "coco").build(()), detections(), metric=metric)
    assert empty.ap is None
    json.dumps(empty.as_dict(), allow_nan=False)


def test_voc_has_one_iou_and_calls_it_ap():
    found = evaluate_detections(small_table(), detections((0, 0, 0.9, 0, 0, 40, 30)), metric="voc07")
    assert found.ap == found.ap50 == pytest.approx(6 / 11 / 2)
    assert found.numbers["AR100"] is None
    assert "VOC 2007" in str(found)


def test_a_metric_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match=r"voc2007.*coco, voc07, voc12"):
        evaluate_detections(small_table(), PERFECT, metric="voc2007")
    with pytest.raises(UsageError, match="plus-one"):
        evaluate_detections(small_table(), PERFECT, plus_one=True)


def test_detections_of_pictures_or_classes_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="3 pictures"):
        evaluate_detections(small_table(), detections((3, 0, 0.9, 0, 0, 1, 1)))
    with pytest.raises(ValueError, match="2 classes"):
        evaluate_detections(small_table(), detections((0, 2, 0.9, 0, 0, 1, 1)))


def test_json_has_the_promised_keys_and_no_nan():
    whole = json.loads(json.dumps(evaluated().as_dict(), allow_nan=False))
    assert [*whole][:12] == list(NUMBERS)
    assert {"per_class", "threshold", "precision", "recall", "f1", "recommended_threshold"} <= whole.keys()
    assert {"AP", "AP50", "images", "objects", "precision", "recall", "f1"} <= whole["per_class"]["cell"].keys()
    assert whole["APl"] is None
    assert whole["confusion"] == {
        "classes": ["cell", "platelet", "background"],
        "matrix": [[2, 0, 0], [0, 0, 1], [0, 0, 0]],
    }
    assert len(whole["curve"]) == 101
    assert whole["curve"][50] == {
        "threshold": 0.5,
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "true": 2,
        "false": 0,
        "missed": 1,
    }


def test_tables_fit_80_columns_whatever_the_names():
    names = ("적혈구 " * 20, "[bold]not markup[/bold]")
    text = str(evaluate_detections(small_table(names), PERFECT))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "[bold]not markup[/bold]" in text
    many = small_table(("cell", "platelet", *[f"class {i}" for i in range(20)]))
    wrong = detections((0, 1, 0.9, 0, 0, 40, 40))
    assert "platelet          1" in str(evaluate_detections(many, wrong))
    assert "no class was taken for another" in str(evaluate_detections(many, PERFECT))


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_of(monkeypatch, tmp_path):
    """A run that detects what it is told, under its own class names."""

    def make(names, found: DetectionTable, threshold=None, of_the_detector=None):
        loaded = Detector(torch.nn.Identity(), Config(), names, of_the_detector or threshold)
        monkeypatch.setattr(
            evaluating, "read_run", lambda run: RunInfo(tmp_path, Config(), names, tuple(range(len(names))), threshold)
        )
        monkeypatch.setattr(evaluating, "load", lambda run, device, which: loaded)
        monkeypatch.setattr(evaluating, "detect_table", lambda *everything: found)
        return tmp_path

    return make


def test_classes_of_run_and_data_are_matched_by_name(run_of):
    swapped = DetectionTable(PERFECT.rows, PERFECT.boxes, PERFECT.scores, 1 - PERFECT.labels)
    found = evaluate(run_of(("platelet", "cell"), swapped), small_table())
    assert found.ap == pytest.approx(1)
    assert found.notes == ()


def test_classes_that_one_side_does_not_know_are_noted(run_of):
    only_cells = DetectionTable(PERFECT.rows, PERFECT.boxes, PERFECT.scores, 1 - PERFECT.labels)
    found = evaluate(run_of(("dust", "cell"), only_cells), small_table())
    assert (found.per_class["cell"].ap, found.per_class["platelet"].ap) == (pytest.approx(1), 0)
    assert found.detections == 2
    assert "platelet" in found.notes[0]
    assert "dust" in found.notes[1]
    assert "note: the run does not know platelet" in str(found)


def test_faulty_labels_are_noted(run_of):
    table = replace(small_table(), problems=(Problem("a.json", "", "bbox", "", "is empty", "remove it"),))
    assert evaluate(run_of(("cell", "platelet"), PERFECT), table).notes == (
        "left out 1 faulty label; `foveal inspect` tells more",
    )


def test_pictures_that_the_reader_left_out_are_noted_as_pictures(run_of):
    problems = (Problem("a.csv", "line 1", "", "", "is empty", "remove it"),)
    problems += tuple(Problem(f"{name}.jpg", "", "", "", "the picture is empty", "replace it") for name in "bc")
    evaluation = evaluate(run_of(("cell", "platelet"), PERFECT), replace(small_table(), problems=problems))
    assert evaluation.notes == ("left out 1 faulty label and 2 unreadable pictures; `foveal inspect` tells more",)


def test_faulty_labels_are_told_once_where_they_are_skipped(run_of):
    table = replace(small_table(), problems=(Problem("a.json", "", "bbox", "", "is empty", "remove it"),))
    notes = evaluate(run_of(("cell", "platelet"), detections()), table, skip_bad=True).notes
    assert notes == ("test: skipped 1 faulty label and 3 unreadable pictures",)


def test_no_class_in_common_is_refused(run_of):
    with pytest.raises(UsageError, match=r"the run knows dog; the data has cell, platelet"):
        evaluate(run_of(("dog",), PERFECT), small_table())


def test_the_threshold_is_the_runs_but_never_on_the_split_it_was_found_on(run_of):
    run = run_of(("cell", "platelet"), PERFECT, threshold=0.3)
    table = small_table()
    assert evaluate(run, table).threshold == 0.3
    assert evaluate(run, table, split="val").threshold == 0.5
    assert evaluate(run, table, split="val", threshold=0.7).threshold == 0.7
    assert evaluate(run_of(("cell", "platelet"), PERFECT), table).threshold_from == "inference.show_threshold"


def test_the_last_weights_are_scored_at_their_own_threshold(run_of):
    run = run_of(("cell", "platelet"), PERFECT, threshold=0.3, of_the_detector=0.2)
    assert evaluate(run, small_table(), which="last").threshold == 0.2

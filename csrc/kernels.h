/* What the compiled kernels share: the declarations of `foveal._kernels`, and one box algebra.
 *
 * Each kernel is the fast path of something that stands in Python, where it is explained, and is held to it by tests.
 * They need no Python beyond 3.11's stable ABI and no torch: arrays come as buffers. Each function checks that they are
 * long enough, then lets go of Python's lock.
 */
#ifndef FOVEAL_KERNELS_H
#define FOVEAL_KERNELS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

PyObject *class_loss_ways(PyObject *module, PyObject *nothing);
PyObject *class_loss(PyObject *module, PyObject *arguments);
PyObject *match(PyObject *module, PyObject *arguments);
PyObject *nms(PyObject *module, PyObject *arguments);

/* Sets ValueError and returns 0 unless a buffer holds `count` elements of `size` bytes. */
int holds(const Py_buffer *buffer, int64_t count, size_t size, const char *name);

/* The operations of `foveal.boxes`, one float32 rounding each: compiled without fused multiply-add. NaN stays NaN. */

typedef struct {
    float x1, y1, x2, y2;
} Box;

static inline float above_0(float x) { return x < 0.0f ? 0.0f : x; }

static inline float area(Box box) { return above_0(box.x2 - box.x1) * above_0(box.y2 - box.y1); }

static inline float intersection(Box a, Box b) {
    float width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1);
    float height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
    return above_0(width) * above_0(height);
}

/* 0 where the union is 0. */
static inline float iou(Box a, float area_a, Box b, float area_b) {
    float shared = intersection(a, b);
    float either = area_a + area_b - shared;
    return shared / (either > 0.0f ? either : 1.0f);
}

#endif

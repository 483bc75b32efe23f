/* Non-maximum suppression class by class: the fast path of `foveal.nms.batched_nms`, where the rule is told.
 *
 * Boxes are taken from the best score down, and each is compared with those of its class that stayed before: of a crowd
 * those are few. A class of few boxes keeps them in one list. In a class of many, one that stays is listed in every
 * cell of the plane that it covers a part of, and a later one looks into the cells of its middle:
 *
 * - A cell is as wide as the root mean square of the widths of the class, and likewise high. So D boxes cover at most
 *   9 D cells by Cauchy and Schwarz, however their sizes differ.
 * - Lists are found by a hash of column and row. So there are as many as the boxes want, wherever they lie; cells that
 *   share a list only cost comparisons.
 * - Boxes with an IoU above t share more than t of the width of either. Cut t of its width, at most half, off both
 *   sides of a box: what they share reaches into the middle that is left. Likewise for the height. From t = .5 on the
 *   middle is a point, in one cell.
 *
 * The worst that can happen is that all stay and share a cell: because they lie on one another, or because a few boxes
 * are so large that all others lie in one cell. Then each is compared with each.
 *
 * Boxes without area have IoU 0 with all: they stay, and displace none.
 *
 * Letters: D boxes.
 */
#include "kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Areas of boxes with coordinates up to here are finite in float32. */
#define FARTHEST 1e18f
#define MOST_BOXES (1 << 30)
/* Boxes that are compared at once, by the processor's vectors. */
#define LANES 8
/* Up to so many boxes, a class has one list. */
#define FEW 64
/* Above that, one for so many. */
#define BOXES_A_LIST 2
/* Much more than float32 rounds off an IoU of boxes whose area is not as small as the other number. */
#define ROUNDING 1e-5
#define SMALL_AREA 1e-30f

#define NONE UINT32_MAX

/* A part of a list. Lanes from `used` on are 0, which is a box without area. `next`: the part that was full before. */
typedef struct {
    float x1[LANES], y1[LANES], x2[LANES], y2[LANES], area[LANES];
    uint32_t used, next;
} Group;

/* It has 2 ** bits lists. With one, columns and rows a pixel are 0: the plane is one cell. */
typedef struct {
    int64_t label;
    uint32_t count, first_list;
    int bits;
    double squared_widths, squared_heights; /* Sums over its boxes. */
    double columns_a_pixel, rows_a_pixel;
} Class;

/* Columns and rows from the first to the last. */
typedef struct {
    int64_t c1, r1, c2, r2;
} Cells;

typedef struct {
    uint32_t *class_of;       /* [D] */
    uint64_t *order, *spare;  /* [D] each */
    Class *classes;
    uint32_t *lists;          /* The last group of each, or NONE. */
    Group *groups;
    uint32_t group_count, group_room;
} Work;

static int in_reach(const float *coordinates, const float *scores, int64_t D) {
    int wrong = 0;
    for (int64_t i = 0; i < 4 * D; i++) wrong |= !(fabsf(coordinates[i]) < FARTHEST);
    for (int64_t i = 0; i < D; i++) wrong |= scores[i] != scores[i];
    return !wrong;
}

/* 32 bits that are the smaller the better the score is; those of 0 and -0 are equal. */
static uint32_t rank(float score) {
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~bits & 0x7FFFFFFF;
}

/* Fills `order` with ranks, and below each the index, the best first. Sorts by one byte after the other from the
 * lowest, so that ties keep the order of their indices. */
static void sort_by_score(const float *scores, uint32_t D, Work *work) {
    uint32_t counts[4][256] = {{0}};
    for (uint32_t i = 0; i < D; i++) {
        uint32_t key = rank(scores[i]);
        work->order[i] = (uint64_t)key << 32 | i;
        for (int byte = 0; byte < 4; byte++) counts[byte][key >> 8 * byte & 255]++;
    }
    for (int byte = 0; byte < 4; byte++) {
        int shift = 32 + 8 * byte;
        uint32_t *starts = counts[byte], before = 0;
        if (D == 0 || starts[work->order[0] >> shift & 255] == D) continue; /* This byte is the same in all. */
        for (int value = 0; value < 256; value++) {
            uint32_t count = starts[value];
            starts[value] = before;
            before += count;
        }
        for (uint32_t i = 0; i < D; i++) work->spare[starts[work->order[i] >> shift & 255]++] = work->order[i];
        uint64_t *sorted = work->spare;
        work->spare = work->order;
        work->order = sorted;
    }
}

/* Numbers the classes as they come, and adds up their boxes. Returns 0 without memory. */
static int count_classes(const Box *boxes, const int64_t *labels, uint32_t D, Work *work, uint32_t *class_count) {
    int bits = 1; /* Of the places of an open hash table of class numbers, twice as many as boxes. */
    while ((uint64_t)1 << bits < 2 * (uint64_t)D) bits++;
    uint32_t mask = ((uint32_t)1 << bits) - 1, room = 64, known = 0;
    size_t bytes = ((size_t)mask + 1) * sizeof(uint32_t);
    uint32_t *table = malloc(bytes);
    work->classes = malloc(room * sizeof *work->classes);
    if (!table || !work->classes) goto without_memory;
    memset(table, 255, bytes); /* NONE */
    for (uint32_t i = 0; i < D; i++) {
        uint32_t place = (uint32_t)((uint64_t)labels[i] * 0x9E3779B97F4A7C15u >> (64 - bits));
        while (table[place] != NONE && work->classes[table[place]].label != labels[i]) place = (place + 1) & mask;
        if (table[place] == NONE) {
            if (known == room) {
                Class *more = realloc(work->classes, 2 * (size_t)room * sizeof *more);
                if (!more) goto without_memory;
                work->classes = more;
                room *= 2;
            }
            table[place] = known;
            work->classes[known++] = (Class){.label = labels[i]};
        }
        Class *class = &work->classes[table[place]];
        work->class_of[i] = table[place];
        class->count++;
        if (area(boxes[i]) > 0.0f) {
            double width = (double)boxes[i].x2 - boxes[i].x1, height = (double)boxes[i].y2 - boxes[i].y1;
            class->squared_widths += width * width;
            class->squared_heights += height * height;
        }
    }
    *class_count = known;
    free(table);
    return 1;
without_memory:
    free(table);
    return 0;
}

/* Gives each class its lists. Returns 0 without memory. */
static int lay_out_lists(Work *work, uint32_t class_count) {
    uint32_t list_count = 0;
    for (uint32_t c = 0; c < class_count; c++) {
        Class *class = &work->classes[c];
        if (class->count > FEW) {
            while ((uint64_t)BOXES_A_LIST << class->bits < class->count) class->bits++;
            class->columns_a_pixel = sqrt(class->count / class->squared_widths);
            class->rows_a_pixel = sqrt(class->count / class->squared_heights);
        }
        class->first_list = list_count;
        list_count += (uint32_t)1 << class->bits;
    }
    work->lists = malloc(((size_t)list_count + 1) * sizeof *work->lists);
    if (!work->lists) return 0;
    memset(work->lists, 255, list_count * sizeof *work->lists); /* NONE */
    return 1;
}

/* The cells from one corner to the other. Of two x the larger has no smaller column, whatever is rounded: so boxes that
 * share a part of the plane share a cell. Nothing overflows: a box with area is at least 2 ** -25 of its coordinates
 * wide in float32, and at most sqrt(D) columns. */
static Cells cells_of(const Class *class, double x1, double y1, double x2, double y2) {
    return (Cells){(int64_t)(x1 * class->columns_a_pixel), (int64_t)(y1 * class->rows_a_pixel),
                   (int64_t)(x2 * class->columns_a_pixel), (int64_t)(y2 * class->rows_a_pixel)};
}

static uint32_t list_of(const Class *class, int64_t column, int64_t row) {
    uint32_t hash = (uint32_t)column * 0x9E3779B1u + (uint32_t)row * 0x85EBCA77u;
    return class->first_list + (uint32_t)((uint64_t)hash >> (32 - class->bits));
}

static int any_above(const Group *group, Box box, float box_area, float threshold) {
    int above = 0;
    for (int lane = 0; lane < LANES; lane++) {
        Box other = {group->x1[lane], group->y1[lane], group->x2[lane], group->y2[lane]};
        above |= iou(other, group->area[lane], box, box_area) > threshold;
    }
    return above;
}

/* Whether a box that stayed overlaps this one by more than the threshold. */
static int displaced(const Work *work, const Class *class, Box box, float box_area, float threshold) {
    double cut = (threshold < 0.5f ? threshold : 0.5f) - ROUNDING;
    if (cut < 0 || box_area < SMALL_AREA) cut = 0;
    double width = cut * ((double)box.x2 - box.x1), height = cut * ((double)box.y2 - box.y1);
    Cells middle = cells_of(class, box.x1 + width, box.y1 + height, box.x2 - width, box.y2 - height);
    for (int64_t row = middle.r1; row <= middle.r2; row++)
        for (int64_t column = middle.c1; column <= middle.c2; column++)
            for (uint32_t g = work->lists[list_of(class, column, row)]; g != NONE; g = work->groups[g].next)
                if (any_above(&work->groups[g], box, box_area, threshold)) return 1;
    return 0;
}

/* Adds a box to a list. Returns 0 without memory. */
static int add(Work *work, uint32_t list, Box box, float box_area) {
    uint32_t g = work->lists[list];
    if (g == NONE || work->groups[g].used == LANES) {
        if (work->group_count == work->group_room) {
            uint32_t room = work->group_room ? 2 * work->group_room : 256;
            Group *more = room > work->group_room ? realloc(work->groups, room * sizeof *more) : NULL;
            if (!more) return 0;
            work->groups = more;
            work->group_room = room;
        }
        memset(&work->groups[work->group_count], 0, sizeof *work->groups);
        work->groups[work->group_count].next = g;
        work->lists[list] = g = work->group_count++;
    }
    Group *group = &work->groups[g];
    uint32_t lane = group->used++;
    group->x1[lane] = box.x1;
    group->y1[lane] = box.y1;
    group->x2[lane] = box.x2;
    group->y2[lane] = box.y2;
    group->area[lane] = box_area;
    return 1;
}

/* Lists a box that stays in all cells that it covers a part of. Returns 0 without memory. */
static int keep(Work *work, const Class *class, Box box, float box_area) {
    Cells covered = cells_of(class, box.x1, box.y1, box.x2, box.y2);
    for (int64_t row = covered.r1; row <= covered.r2; row++)
        for (int64_t column = covered.c1; column <= covered.c2; column++)
            if (!add(work, list_of(class, column, row), box, box_area)) return 0;
    return 1;
}

/* How many stay, at most `limit`, with their indices in `kept`; -1 without memory. */
static int64_t suppress(const Box *boxes, const float *scores, const int64_t *labels, uint32_t D, float threshold,
                        int64_t limit, int64_t *kept, Work *work) {
    uint32_t class_count;
    int64_t count = 0;
    work->class_of = malloc(((size_t)D + 1) * sizeof *work->class_of);
    work->order = malloc(((size_t)D + 1) * sizeof *work->order);
    work->spare = malloc(((size_t)D + 1) * sizeof *work->spare);
    if (!work->class_of || !work->order || !work->spare) return -1;
    if (!count_classes(boxes, labels, D, work, &class_count) || !lay_out_lists(work, class_count)) return -1;
    sort_by_score(scores, D, work);
    for (uint32_t place = 0; place < D && count < limit; place++) {
        uint32_t i = (uint32_t)work->order[place];
        Box box = boxes[i];
        float box_area = area(box);
        if (box_area > 0.0f) {
            const Class *class = &work->classes[work->class_of[i]];
            if (displaced(work, class, box, box_area, threshold)) continue;
            if (!keep(work, class, box, box_area)) return -1;
        }
        kept[count++] = i;
    }
    return count;
}

/* nms(boxes, scores, labels, iou, kept) -> count
 *
 * boxes: [D, 4] float32. scores: [D] float32. labels: [D] int64. kept: int64, as many as are wanted at most: the
 * indices of those that stay, best score first, are written to its start. Returns None where this is not the path: a
 * score or a coordinate is NaN, a coordinate FARTHEST or beyond, the IoU outside of 0 .. 1. */
PyObject *nms(PyObject *module, PyObject *arguments) {
    Py_buffer boxes, scores, labels, kept;
    double threshold;
    PyObject *answer = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*y*dw*:nms", &boxes, &scores, &labels, &threshold, &kept)) return NULL;
    int64_t D = scores.len / (int64_t)sizeof(float), count = 0;
    if (holds(&boxes, D, sizeof(Box), "boxes") && holds(&labels, D, sizeof(int64_t), "labels")) {
        int taken;
        Py_BEGIN_ALLOW_THREADS
        taken = threshold >= 0 && threshold <= 1 && D <= MOST_BOXES && in_reach(boxes.buf, scores.buf, D);
        if (taken) {
            Work work = {0};
            count = suppress(boxes.buf, scores.buf, labels.buf, (uint32_t)D, (float)threshold,
                             kept.len / (int64_t)sizeof(int64_t), kept.buf, &work);
            free(work.class_of);
            free(work.order);
            free(work.spare);
            free(work.classes);
            free(work.lists);
            free(work.groups);
        }
        Py_END_ALLOW_THREADS
        if (!taken) answer = Py_NewRef(Py_None);
        else answer = count < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(count);
    }
    PyBuffer_Release(&boxes);
    PyBuffer_Release(&scores);
    PyBuffer_Release(&labels);
    PyBuffer_Release(&kept);
    return answer;
}

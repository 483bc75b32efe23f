/* Matching on a CPU: what `foveal.grid_matching` and `foveal.reach` do in many operations of torch, in loops.
 *
 * The anchors of one level, size and ratio, a shape, are one box repeated from cell to cell. Two boxes that share an
 * area overlap in x by at least that area / the smaller of their heights; and so in y. So the anchors of a shape that
 * can reach an IoU with an object lie in a rectangle of cells. It is laid in doubles, a little too large; then the
 * float32 expression of `boxes.iou` decides. Of a picture:
 *
 * 1. Each object goes through the anchors that can reach the lowest threshold, or the IoU of the anchor nearest to it
 *    where that is lower. Each of them keeps its best object; the object's best anchors are marked.
 * 2. A best anchor below every threshold may overlap another object more. Where the policy `all` makes it positive, it
 *    is compared again, with every object that could.
 * 3. The anchors that something is known of become positive, ignored, or nothing.
 *
 * An IoU of 0 is no pair. Letters: B pictures, N anchors of one, G objects, L levels, A anchors of a cell, S shapes.
 */
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

/* Policies for best anchors of objects without a match. */
enum { NONE, AUTHORS, ALL };

/* What an anchor can be, in bits. */
enum {
    KNOWN = 1,    /* overlaps an object: `known` says which one, and how much */
    BEST = 2,     /* no anchor overlaps some object more */
    NOBODYS = 4,  /* ignored unless positive */
    DOUBTFUL = 8, /* to be compared again */
};

static const float NO_THRESHOLD = 2;        /* more than any IoU */
static const int64_t MOST_CELLS = 1 << 20;  /* in x and in y: an int64 holds how many there are */

typedef struct {
    int64_t columns, rows, stride_x, stride_y;
} Level;

/* The anchor of a shape around the origin, as large as rounding can make it; and the least area it can have. */
typedef struct {
    double x1, y1, x2, y2, least_area;
} Bounds;

/* A shape in one picture: where its first anchor is, its cells, and those of them that can be reached. */
typedef struct {
    Bounds bounds;
    double per_x, per_y; /* cells a pixel */
    int64_t first, columns, rows, inside_columns, inside_rows;
} Shape;

/* An IoU, and the packed object of the batch that an anchor has it with. */
typedef struct {
    float iou;
    uint32_t object;
} Pair;

/* A box in doubles. */
typedef struct {
    double x1, y1, x2, y2, width, height, area;
} Object;

/* Some anchors of a shape: the first one, `rows` rows of `columns` cells, and how far it is from row to row. */
typedef struct {
    int64_t first, columns, rows, below;
} Rectangle;

typedef struct {
    int64_t *values;
    size_t length, room;
} List;

typedef struct {
    const Box *anchors, *boxes;
    const Level *levels;
    const Bounds *bounds;
    const uint8_t *crowd;
    const int64_t *image_of, *sizes;
    int64_t num_anchors, num_levels, per_cell, num_shapes, num_objects, num_images;
    int on_corner, policy, padding_is_ignored;
    float positive_iou, background_iou, lowest, crowd_overlap;
    /* Of one picture: */
    Shape *shapes;       /* [S] */
    float *lowest_known; /* [S] */
    uint8_t *state;      /* [N], and up to the next multiple of 8 */
    Pair *known;         /* [N], valid where the state says so */
    int64_t *ties;       /* [N], the best anchors of one object, each of which it looks at once */
    /* Of the batch: */
    List positive, object, ignored;
} Work;

static int append(List *list, int64_t value) {
    if (list->length == list->room) {
        size_t room = list->room ? 2 * list->room : 1024;
        int64_t *values = realloc(list->values, room * sizeof *values);
        if (!values) return 0;
        list->values = values;
        list->room = room;
    }
    list->values[list->length++] = value;
    return 1;
}

/* -- which anchors an object can reach ----------------------------------------------------------------------------- */

/* How many cells, from 0 on, are centred within `side` pixels. */
static int64_t cells_inside(int64_t cells, int64_t stride, int64_t side, int on_corner) {
    if (side <= 0) return 0;
    if (side >= cells * stride) return cells;
    int64_t room = 2 * side - (on_corner ? 0 : stride);
    return room > 0 ? (room + 2 * stride - 1) / (2 * stride) : 0;
}

static void lay_shapes(Work *work, int64_t image) {
    int64_t height = work->sizes[2 * image], width = work->sizes[2 * image + 1], first = 0;
    for (int64_t s = 0; s < work->num_shapes; s++) {
        Level level = work->levels[s / work->per_cell];
        int64_t columns = level.columns, rows = level.rows, a = s % work->per_cell;
        if (work->padding_is_ignored) {
            columns = cells_inside(level.columns, level.stride_x, width, work->on_corner);
            rows = cells_inside(level.rows, level.stride_y, height, work->on_corner);
        }
        double per_x = 1.0 / (double)level.stride_x, per_y = 1.0 / (double)level.stride_y;
        work->shapes[s] = (Shape){work->bounds[s], per_x, per_y, first + a, level.columns, level.rows, columns, rows};
        if (a == work->per_cell - 1) first += level.columns * level.rows * work->per_cell;
    }
}

/* Where in its cell an anchor is centred, in strides. */
static double shift_of(const Work *work) { return work->on_corner ? 0.0 : 0.5; }

/* What shares no area with any anchor: no area, or no number. */
static int is_empty(Box box) { return !(box.x2 > box.x1 && box.y2 > box.y1); }

static Object in_doubles(Box box) {
    double width = (double)box.x2 - box.x1, height = (double)box.y2 - box.y1;
    return (Object){box.x1, box.y1, box.x2, box.y2, width, height, width * height};
}

/* x rounded up or down, from 0 to `limit`; 0 for what is no number. */
static int64_t up_to(double x, int64_t limit) {
    if (!(x > 0)) return 0;
    if (x >= (double)limit) return limit;
    int64_t whole = (int64_t)x;
    return whole + (whole < x);
}

static int64_t down_to(double x, int64_t limit) {
    if (!(x > 0)) return 0;
    return x >= (double)limit ? limit : (int64_t)x;
}

static double smaller(double a, double b) { return a < b ? a : b; }

/* The anchors of a shape that share at least `share` of their area and `of_object` pixels. 0 if there are none. */
static int reachable(
    const Work *work, const Shape *shape, Object object, double share, double of_object, Rectangle *found
) {
    Bounds anchor = shape->bounds;
    double enough = share * anchor.least_area + of_object;
    double width = smaller(object.width, anchor.x2 - anchor.x1), height = smaller(object.height, anchor.y2 - anchor.y1);
    if (enough > width * height) return 0;

    double overlap_x = enough / height, overlap_y = enough / width, shift = shift_of(work);
    double left = (object.x1 + overlap_x - anchor.x2) * shape->per_x - shift;
    double right = (object.x2 - overlap_x - anchor.x1) * shape->per_x - shift;
    double top = (object.y1 + overlap_y - anchor.y2) * shape->per_y - shift;
    double bottom = (object.y2 - overlap_y - anchor.y1) * shape->per_y - shift;
    int64_t column = up_to(left, shape->inside_columns), row = up_to(top, shape->inside_rows);
    found->columns = down_to(right + 1, shape->inside_columns) - column;
    found->rows = down_to(bottom + 1, shape->inside_rows) - row;
    found->below = shape->columns * work->per_cell;
    found->first = shape->first + row * found->below + column * work->per_cell;
    return found->columns > 0 && found->rows > 0;
}

/* shared / (anchor + object - shared) >= t is shared >= t / (1 + t) x (anchor + object): this factor. Rounding changes
 * an IoU by far less than 1e-5 of it, unless it is so small that float32 has few digits left. */
static double share_of(float iou) {
    double threshold = iou * (1 - 1e-5) - 1e-30;
    return threshold > 0 ? threshold / (1 + threshold) : 0;
}

/* -- one picture --------------------------------------------------------------------------------------------------- */

static void keep_better(Work *work, int64_t anchor, float value, uint32_t object) {
    Pair *known = &work->known[anchor];
    if (work->state[anchor] & KNOWN) {
        if (value < known->iou || (value == known->iou && object > known->object)) return;
    }
    *known = (Pair){value, object};
    work->state[anchor] |= KNOWN;
}

/* The IoU that the anchor nearest to an object has with it, if it is below the lowest threshold. Of the anchors of one
 * shape that one overlaps it most, but for rounding. */
static float first_threshold(const Work *work, Box box, Object object) {
    float best = 0, area_of_box = area(box);
    double shift = shift_of(work);
    for (int64_t s = 0; s < work->num_shapes; s += work->per_cell) {
        const Shape *shape = &work->shapes[s];
        if (!shape->inside_columns || !shape->inside_rows) continue;
        double x = (object.x1 + object.x2) / 2 * shape->per_x - shift;
        double y = (object.y1 + object.y2) / 2 * shape->per_y - shift;
        int64_t column = down_to(x + 0.5, shape->inside_columns - 1), row = down_to(y + 0.5, shape->inside_rows - 1);
        const Box *anchors = work->anchors + shape->first + (row * shape->columns + column) * work->per_cell;
        for (int64_t a = 0; a < work->per_cell; a++) {
            float value = iou(box, area_of_box, anchors[a], area(anchors[a]));
            if (value > best) best = value;
        }
        if (best >= work->lowest) return work->lowest;
    }
    return best;
}

static void match_object(Work *work, uint32_t index) {
    Box box = work->boxes[index];
    Object object = in_doubles(box);
    /* More than any IoU where best anchors do not count: none is marked. */
    float area_of_box = area(box), best = work->policy == NONE ? NO_THRESHOLD : 0;
    float threshold = work->policy == NONE ? work->lowest : first_threshold(work, box, object);
    double share = share_of(threshold);
    int64_t num_ties = 0;
    for (int64_t s = 0; s < work->num_shapes; s++) {
        Rectangle found;
        if (!reachable(work, &work->shapes[s], object, share, share * object.area, &found)) continue;
        for (int64_t row = 0; row < found.rows; row++) {
            int64_t anchor = found.first + row * found.below;
            for (int64_t column = 0; column < found.columns; column++, anchor += work->per_cell) {
                Box other = work->anchors[anchor];
                float value = iou(box, area_of_box, other, area(other));
                if (!(value > 0)) continue;
                if (value >= work->lowest) keep_better(work, anchor, value, index);
                if (value < best) continue;
                if (value > best) num_ties = 0;
                best = value;
                work->ties[num_ties++] = anchor;
            }
        }
    }
    for (int64_t i = 0; i < num_ties; i++) {
        keep_better(work, work->ties[i], best, index);
        work->state[work->ties[i]] |= BEST;
    }
}

/* The first anchor from n on whose state is not 0. Most are 0, so eight are read at a time. */
static int64_t next_marked(const Work *work, int64_t n) {
    while (n < work->num_anchors) {
        if (n % 8 == 0) {
            uint64_t eight;
            memcpy(&eight, work->state + n, 8);
            if (!eight) {
                n += 8;
                continue;
            }
        }
        if (work->state[n]) break;
        n++;
    }
    return n;
}

static void compare_object_again(Work *work, uint32_t index) {
    Box box = work->boxes[index];
    Object object = in_doubles(box);
    float area_of_box = area(box);
    for (int64_t s = 0; s < work->num_shapes; s++) {
        Rectangle found;
        if (work->lowest_known[s] == NO_THRESHOLD) continue;
        double share = share_of(work->lowest_known[s]);
        if (!reachable(work, &work->shapes[s], object, share, share * object.area, &found)) continue;
        for (int64_t row = 0; row < found.rows; row++) {
            int64_t anchor = found.first + row * found.below;
            for (int64_t column = 0; column < found.columns; column++, anchor += work->per_cell) {
                if (!(work->state[anchor] & DOUBTFUL)) continue;
                Box other = work->anchors[anchor];
                float value = iou(box, area_of_box, other, area(other));
                if (value > 0) keep_better(work, anchor, value, index);
            }
        }
    }
}

/* Completes what is known of best anchors below every threshold. A better pair has a higher IoU than the known one. So
 * the lowest one known of a shape is the threshold there. */
static void compare_again(Work *work, int64_t first_object, int64_t last_object) {
    int64_t num_doubtful = 0, level = 0;
    for (int64_t s = 0; s < work->num_shapes; s++) work->lowest_known[s] = NO_THRESHOLD;
    for (int64_t n = next_marked(work, 0); n < work->num_anchors; n = next_marked(work, n + 1)) {
        if (!(work->state[n] & BEST) || work->known[n].iou >= work->lowest) continue;
        while (level + 1 < work->num_levels && n >= work->shapes[(level + 1) * work->per_cell].first) level++;
        float *lowest = &work->lowest_known[level * work->per_cell + n % work->per_cell];
        if (work->known[n].iou < *lowest) *lowest = work->known[n].iou;
        work->state[n] |= DOUBTFUL;
        num_doubtful++;
    }
    if (!num_doubtful) return;
    for (int64_t g = first_object; g < last_object; g++) {
        if (!work->crowd[g] && !is_empty(work->boxes[g])) compare_object_again(work, (uint32_t)g);
    }
}

/* Anchors with at least a share of their area in a crowd region are nobody's. */
static void mark_crowd(Work *work, Box crowd) {
    Object object = in_doubles(crowd);
    double share = work->crowd_overlap * (1 - 1e-5);
    for (int64_t s = 0; s < work->num_shapes; s++) {
        Rectangle found;
        if (!reachable(work, &work->shapes[s], object, share, 0, &found)) continue;
        for (int64_t row = 0; row < found.rows; row++) {
            int64_t anchor = found.first + row * found.below;
            for (int64_t column = 0; column < found.columns; column++, anchor += work->per_cell) {
                Box other = work->anchors[anchor];
                float shared = intersection(crowd, other);
                if (shared > 0 && shared / area(other) >= work->crowd_overlap) work->state[anchor] |= NOBODYS;
            }
        }
    }
}

/* Anchors centred on a picture's padding, right of it or below, are nobody's. */
static void mark_padding(Work *work) {
    for (int64_t s = 0; s < work->num_shapes; s += work->per_cell) {
        const Shape *shape = &work->shapes[s];
        uint8_t *row = work->state + shape->first;
        int64_t step = shape->columns * work->per_cell;
        for (int64_t r = 0; r < shape->rows; r++, row += step) {
            int64_t inside = r < shape->inside_rows ? shape->inside_columns * work->per_cell : 0;
            memset(row + inside, NOBODYS, (size_t)(step - inside));
        }
    }
}

static int list_answers(Work *work, int64_t before) {
    for (int64_t n = next_marked(work, 0); n < work->num_anchors; n = next_marked(work, n + 1)) {
        int state = work->state[n];
        float value = state & KNOWN ? work->known[n].iou : 0;
        int is_undecided = state & NOBODYS || (state & KNOWN && value >= work->background_iou);
        int is_positive = state & KNOWN && value >= work->positive_iou;
        if (state & BEST) is_positive |= work->policy == ALL || value >= work->background_iou;
        if (is_positive) {
            if (!append(&work->positive, before + n) || !append(&work->object, work->known[n].object)) return 0;
        } else if (is_undecided) {
            if (!append(&work->ignored, before + n)) return 0;
        }
    }
    return 1;
}

static int match_picture(Work *work, int64_t image, int64_t first_object, int64_t last_object) {
    /* Where there are objects, the best IoU of every anchor is 0 or more. */
    int are_all_nobodys = first_object < last_object && work->background_iou <= 0;
    memset(work->state, are_all_nobodys ? NOBODYS : 0, (size_t)work->num_anchors);
    lay_shapes(work, image);
    if (work->padding_is_ignored) mark_padding(work);
    for (int64_t g = first_object; g < last_object; g++) {
        if (is_empty(work->boxes[g])) continue;
        if (work->crowd[g]) mark_crowd(work, work->boxes[g]);
        else match_object(work, (uint32_t)g);
    }
    if (work->policy == ALL) compare_again(work, first_object, last_object);
    return list_answers(work, image * work->num_anchors);
}

/* -- a batch ------------------------------------------------------------------------------------------------------- */

/* 0 if there is not enough memory. */
static int match_pictures(Work *work) {
    size_t num_anchors = (size_t)work->num_anchors, num_shapes = (size_t)work->num_shapes;
    work->shapes = malloc(num_shapes * sizeof *work->shapes + 1);
    work->lowest_known = malloc(num_shapes * sizeof *work->lowest_known + 1);
    work->state = calloc(num_anchors + 8, 1);
    work->known = malloc(num_anchors * sizeof *work->known + 1);
    work->ties = malloc(num_anchors * sizeof *work->ties + 1);
    int done = work->shapes && work->lowest_known && work->state && work->known && work->ties;
    int64_t first = 0, last = 0;
    for (int64_t image = 0; done && image < work->num_images; image++, first = last) {
        while (last < work->num_objects && work->image_of[last] == image) last++;
        done = match_picture(work, image, first, last);
    }
    free(work->shapes);
    free(work->lowest_known);
    free(work->state);
    free(work->known);
    free(work->ties);
    return done;
}

/* Sets ValueError and returns 0 unless every level is a grid of cells. */
static int count_anchors(Work *work) {
    work->num_shapes = work->num_levels * work->per_cell;
    for (int64_t l = 0; l < work->num_levels; l++) {
        Level level = work->levels[l];
        if (level.columns < 0 || level.columns > MOST_CELLS || level.rows < 0 || level.rows > MOST_CELLS ||
            level.stride_x < 1 || level.stride_y < 1) {
            PyErr_SetString(PyExc_ValueError, "a level is not a grid of cells");
            return 0;
        }
        work->num_anchors += level.columns * level.rows * work->per_cell;
    }
    return 1;
}

static PyObject *as_bytes(List list) {
    return PyByteArray_FromStringAndSize((const char *)list.values, (Py_ssize_t)(list.length * sizeof *list.values));
}

enum { ANCHORS, LEVELS, BOUNDS, BOXES, CROWD, IMAGE_OF, SIZES, BUFFERS };

static PyObject *match_buffers(const Py_buffer *given, Work *work) {
    work->anchors = given[ANCHORS].buf;
    work->levels = given[LEVELS].buf;
    work->bounds = given[BOUNDS].buf;
    work->boxes = given[BOXES].buf;
    work->crowd = given[CROWD].buf;
    work->image_of = given[IMAGE_OF].buf;
    work->sizes = given[SIZES].buf;
    /* What is multiplied is held to the buffers before. */
    if (!holds(&given[LEVELS], work->num_levels, sizeof *work->levels, "levels") ||
        !holds(&given[BOUNDS], work->per_cell, sizeof *work->bounds, "bounds") || !count_anchors(work) ||
        !holds(&given[BOUNDS], work->num_shapes, sizeof *work->bounds, "bounds") ||
        !holds(&given[ANCHORS], work->num_anchors, sizeof *work->anchors, "anchors") ||
        !holds(&given[BOXES], work->num_objects, sizeof *work->boxes, "boxes") ||
        !holds(&given[CROWD], work->num_objects, sizeof *work->crowd, "crowd") ||
        !holds(&given[IMAGE_OF], work->num_objects, sizeof *work->image_of, "image_index") ||
        !holds(&given[SIZES], work->num_images, 2 * sizeof *work->sizes, "sizes")) {
        return NULL;
    }
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = match_pictures(work);
    Py_END_ALLOW_THREADS
    if (!done) return PyErr_NoMemory();
    return Py_BuildValue("NNN", as_bytes(work->positive), as_bytes(work->object), as_bytes(work->ignored));
}

PyObject *match(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer given[BUFFERS];
    Work work = {0};
    long long num_levels, per_cell, num_objects, num_images;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*y*y*y*LLLLpiffpf:match", &given[ANCHORS], &given[LEVELS], &given[BOUNDS],
                          &given[BOXES], &given[CROWD], &given[IMAGE_OF], &given[SIZES], &num_levels, &per_cell,
                          &num_objects, &num_images, &work.on_corner, &work.policy, &work.positive_iou,
                          &work.background_iou, &work.padding_is_ignored, &work.crowd_overlap)) {
        return NULL;
    }
    work.num_levels = num_levels;
    work.per_cell = per_cell;
    work.num_objects = num_objects;
    work.num_images = num_images;
    work.lowest = work.positive_iou < work.background_iou ? work.positive_iou : work.background_iou;
    PyObject *found = match_buffers(given, &work);
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&given[i]);
    free(work.positive.values);
    free(work.object.values);
    free(work.ignored.values);
    return found;
}

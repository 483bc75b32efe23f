/* The class loss of background and its gradient in one pass: the fast path of `foveal/losses/background.py`.
 *
 * Logits are read once and gradients written once; all between stays in registers, many logits at a time. The
 * exponential and the logarithm are polynomials (least relative error, 2e-8 and 3e-8), so that the compiler can make
 * vectors of the loop. With a = |x|:
 *
 *     e = exp(-a)    log(1 + e) = e P(e)    p, 1 - p = 1 / (1 + e), e / (1 + e)    -log(1 - p) = max(x, 0) + log(1 + e)
 *
 * None of it is a difference of near numbers, so all is right to some units in the last place for every logit. Sums are
 * double, piece by piece and then over the pieces in their order: the same however many threads there are.
 *
 * Letters: B images, A anchors of a cell, K classes, X cells of a level. In memory an image's logits lie as planes,
 * [A, K, X], or by anchor, [X, A, K]. Holes are anchors that are not background: their losses and gradients are 0.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for RTLD_DEFAULT */
#endif
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) && !defined(_WIN32) && (defined(__x86_64__) || defined(__aarch64__))
#define SUPPORTED 1
#include <dlfcn.h>
#include <math.h>
#else
#define SUPPORTED 0 /* without vectors torch's operations are as fast */
#endif

#if SUPPORTED

enum { BLOCK = 1024, PIECE = 32 * BLOCK }; /* logits gone through together, and by one thread at a time */
enum { WORTH_THREADS = 4, MOST_THREADS = 256 }; /* pieces, some 20 us each, from which on there are several threads */

typedef enum { CROSS_ENTROPY, FOCAL, HINGE } Kind;

typedef struct {
    Kind kind;
    double gamma;
    float margin;
} Loss;

/* Sum of the losses of `count` logits, without `scale`; `slope` gets the derivatives, with weight and scale. */
typedef double (*Steps)(Loss loss, const float *x, const float *weight, float scale, float *slope, int count);

/* -- the arithmetic ------------------------------------------------------------------------------------------------ */

#define INLINE static inline __attribute__((always_inline))

#define GONE 87.33f /* exp(-GONE) is the least normal float32; what is beyond counts as 0 */

/* exp(more - a) for a >= 0 and |more| far below 1; NaN where one is. */
INLINE float exp_minus(float a, float more) {
    const float to_integer = 12582912.0f; /* 1.5 x 2^23: what is added to it loses its fraction */
    float shifted = fmaf(a, -1.44269504f, to_integer);
    float n = shifted - to_integer;
    float r = fmaf(n, -0.693359375f, -a); /* log 2 in two parts, the first with so few digits that n of it are exact */
    r = fmaf(n, 2.12194440e-4f, r) + more;
    float y = 1.38368376e-3f;
    y = fmaf(y, r, 8.37482233e-3f);
    y = fmaf(y, r, 4.16682251e-2f);
    y = fmaf(y, r, 1.66664198e-1f);
    y = fmaf(y, r, 4.99999911e-1f);
    y = fmaf(y, r, 1.0f);
    y = fmaf(y, r, 1.0f);
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u; /* n into the exponent */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return a > GONE ? 0.0f : y * scale;
}

/* log(1 + e) for e in 0 .. 1. */
INLINE float log_1_plus(float e) {
    float y = -3.24402121e-3f;
    y = fmaf(y, e, 1.98514443e-2f);
    y = fmaf(y, e, -5.69594987e-2f);
    y = fmaf(y, e, 1.06036514e-1f);
    y = fmaf(y, e, -1.53055906e-1f);
    y = fmaf(y, e, 1.96759388e-1f);
    y = fmaf(y, e, -2.49541342e-1f);
    y = fmaf(y, e, 3.33299637e-1f);
    y = fmaf(y, e, -4.99999017e-1f);
    y = fmaf(y, e, 1.0f);
    return y * e;
}

/* p^gamma = exp(gamma log p) of log p = min(x, 0) - log(1 + e), whose rounding would be multiplied: so it is kept. */
INLINE float power(float x, float log_1_e, float gamma, float gamma_rest) {
    float low = x > 0.0f ? 0.0f : x;
    float log_p = low - log_1_e;
    float back = log_p - low;
    float rest = (low - (log_p - back)) - (log_1_e + back);
    float whole = gamma * log_p;
    float more = fmaf(gamma, log_p, -whole) + fmaf(gamma, rest, gamma_rest * log_p);
    return exp_minus(-whole, more);
}

/* `kind` and `gamma` are known where this is put in, so that the loop has no branch left. */
INLINE double steps(Kind kind, double gamma, Loss loss, const float *restrict x_of, const float *restrict weight_of,
                    float scale, float *restrict slope_of, int count) {
    const float exponent = (float)gamma, exponent_rest = (float)(gamma - (double)exponent);
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < count; i++) {
        float x = x_of[i], weight = weight_of[i];
        float e = exp_minus(fabsf(x), 0.0f);
        float log_1_e = log_1_plus(e);
        float more_likely = 1.0f / (1.0f + e), less_likely = e * more_likely;
        float p = x < 0.0f ? less_likely : more_likely, rest = x < 0.0f ? more_likely : less_likely;
        float surprise = above_0(x) + log_1_e; /* -log(1 - p) */
        float value = surprise, slope = p;
        if (kind == FOCAL) { /* equation 10 for y = -1 */
            float p_gamma = gamma == 1.0   ? p
                            : gamma == 2.0 ? p * p
                                           : power(x, log_1_e, exponent, exponent_rest);
            value = p_gamma * surprise;
            slope = p_gamma * fmaf(exponent * rest, surprise, p);
        }
        if (kind == HINGE) {
            value = above_0(p + (loss.margin - 1.0f));
            slope = value > 0.0f ? p * rest : 0.0f;
        }
        sum += (double)(value * weight);
        slope_of[i] = slope * (weight * scale);
    }
    return sum;
}

INLINE double choose(Loss loss, const float *x, const float *weight, float scale, float *slope, int count) {
    if (loss.kind == CROSS_ENTROPY) return steps(CROSS_ENTROPY, 0.0, loss, x, weight, scale, slope, count);
    if (loss.kind == HINGE) return steps(HINGE, 0.0, loss, x, weight, scale, slope, count);
    if (loss.gamma == 2.0) return steps(FOCAL, 2.0, loss, x, weight, scale, slope, count);
    if (loss.gamma == 1.0) return steps(FOCAL, 1.0, loss, x, weight, scale, slope, count);
    return steps(FOCAL, loss.gamma, loss, x, weight, scale, slope, count);
}

#define FOR_PROCESSOR(name, attribute)                                                                               \
    attribute static double name(Loss loss, const float *x, const float *weight, float scale, float *slope, int n) { \
        return choose(loss, x, weight, scale, slope, n);                                                             \
    }

#if defined(__x86_64__)
#if defined(__clang__)
#define WIDE __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), min_vector_width(512)))
#else
#define WIDE __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")))
#endif
FOR_PROCESSOR(with_avx512, WIDE)
FOR_PROCESSOR(with_avx2, __attribute__((target("avx2,fma"))))

enum { WAYS = 2 };

/* From the best. */
static Steps way(int number, const char **name) {
    __builtin_cpu_init();
    *name = number == 0 ? "avx512" : "avx2";
    if (number == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                   ? with_avx512
                   : NULL;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? with_avx2 : NULL;
}
#else
FOR_PROCESSOR(with_neon, )

enum { WAYS = 1 };

static Steps way(int number, const char **name) {
    (void)number;
    *name = "neon";
    return with_neon;
}
#endif

/* The best that this processor can, or the one of that name; NULL if there is none. */
static Steps best_way(const char *wanted) {
    for (int i = 0; i < WAYS; i++) {
        const char *name;
        Steps found = way(i, &name);
        if (found && (!*wanted || strcmp(wanted, name) == 0)) return found;
    }
    return NULL;
}

/* -- holes and weights --------------------------------------------------------------------------------------------- */

/* One level's logits. hole: sorted cells of each anchor of each image (planes), whose part in it ends at
 * hole_end[image * A + anchor]; or sorted rows cell * A + anchor of each image (by anchor), hole_end[image]. */
typedef struct {
    const float *logits;
    float *slopes; /* NULL: no gradient is wanted */
    int64_t images, per_cell, classes, cells;
    int planes;
    const int64_t *hole, *hole_end;
    const float *weight_of_class; /* NULL: all are 1 */
    const double *scale;          /* [B] */
    Loss loss;
    Steps steps;
} Level;

/* The place of the first number from `least` on, among sorted ones. */
static int64_t first_from(const int64_t *sorted, int64_t begin, int64_t end, int64_t least) {
    while (begin < end) {
        int64_t middle = begin + (end - begin) / 2;
        if (sorted[middle] < least)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

static int64_t hole_begin(const Level *level, int64_t group) { return group ? level->hole_end[group - 1] : 0; }

/* Logits `first` .. `last` of an image, where there are holes with what costs nothing in these; `copy` has room. */
static const float *without_holes(const Level *level, int64_t image, int64_t first, int64_t last, float *copy) {
    const float background = -1e4f;
    int64_t size = level->per_cell * level->classes * level->cells;
    int64_t width = level->planes ? level->cells : level->classes;
    const float *x = level->logits + image * size + first, *found = x;
    for (int64_t row = first / width; row * width < last; row++) {
        int64_t group = level->planes ? image * level->per_cell + row / level->classes : image;
        int64_t end = level->hole_end[group], at = hole_begin(level, group);
        int64_t start = row * width; /* of the row, in the image */
        if (at == end) {
            if (level->planes) continue;
            break;
        }
        if (level->planes) {
            at = first_from(level->hole, at, end, first > start ? first - start : 0);
            for (; at < end && start + level->hole[at] < last; at++) {
                if (found == x) found = memcpy(copy, x, (size_t)(last - first) * sizeof *x);
                copy[start + level->hole[at] - first] = background;
            }
        } else {
            at = first_from(level->hole, at, end, row);
            if (at == end) break;
            row = level->hole[at]; /* the next row that is one */
            for (int64_t i = row * width; i < (row + 1) * width && i < last; i++) {
                if (i < first) continue;
                if (found == x) found = memcpy(copy, x, (size_t)(last - first) * sizeof *x);
                copy[i - first] = background;
            }
        }
    }
    return found;
}

static void weigh(const Level *level, int64_t first, int64_t last, float *weight) {
    for (int64_t i = first; i < last; i++) {
        int64_t class = (level->planes ? i / level->cells : i) % level->classes;
        weight[i - first] = level->weight_of_class[class];
    }
}

/* -- pieces and threads -------------------------------------------------------------------------------------------- */

/* libgomp's: calls a function once in each of some threads, and waits for all. */
typedef void (*Parallel)(void (*function)(void *), void *data, unsigned threads, unsigned flags);

typedef struct {
    const Level *level;
    int64_t pieces; /* of an image */
    double *sum;    /* [B * pieces] */
    int64_t next;   /* piece that nobody has begun */
} Work;

static double piece(const Level *level, int64_t image, int64_t number) {
    float copy[BLOCK], weight[BLOCK], unwanted[BLOCK];
    for (int i = 0; i < BLOCK; i++) weight[i] = 1.0f;
    int64_t size = level->per_cell * level->classes * level->cells;
    int64_t end = (number + 1) * PIECE < size ? (number + 1) * PIECE : size;
    double sum = 0.0;
    for (int64_t first = number * PIECE; first < end; first += BLOCK) {
        int64_t last = first + BLOCK < end ? first + BLOCK : end;
        const float *x = without_holes(level, image, first, last, copy);
        if (level->weight_of_class) weigh(level, first, last, weight);
        float *slope = level->slopes ? level->slopes + image * size + first : unwanted;
        sum += level->steps(level->loss, x, weight, (float)level->scale[image], slope, (int)(last - first));
    }
    return sum;
}

static void work_on(void *given) {
    Work *work = given;
    int64_t all = work->level->images * work->pieces, mine;
    while ((mine = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < all)
        work->sum[mine] = piece(work->level, mine / work->pieces, mine % work->pieces);
}

/* The threads that torch works with, where those are of GCC's OpenMP; else NULL, and one thread does all. They wait for
 * work by going round and round, so threads of our own would not get a core: two took longer than one. */
static Parallel threads_of_torch(void) {
    void *found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    Parallel parallel = NULL;
    memcpy(&parallel, &found, sizeof found); /* ISO C has no cast for it */
    return parallel;
}

/* [B] sums; returns 0 where there is no memory for them. */
static int run(const Level *level, int64_t threads, double *sums) {
    int64_t size = level->per_cell * level->classes * level->cells;
    Work work = {.level = level, .pieces = (size + PIECE - 1) / PIECE};
    int64_t all = level->images * work.pieces;
    work.sum = malloc((size_t)(all ? all : 1) * sizeof *work.sum);
    if (!work.sum) return 0;
    Parallel parallel = threads > 1 && all >= WORTH_THREADS ? threads_of_torch() : NULL;
    if (parallel)
        parallel(work_on, &work, (unsigned)(threads < MOST_THREADS ? threads : MOST_THREADS), 0);
    else
        work_on(&work);
    for (int64_t image = 0; image < level->images; image++) {
        sums[image] = 0.0;
        for (int64_t i = 0; i < work.pieces; i++) sums[image] += work.sum[image * work.pieces + i];
    }
    free(work.sum);
    return 1;
}

/* Whether the holes are what `without_holes` takes them for. */
static int holes_are_sorted(const Level *level, int64_t count) {
    int64_t groups = level->planes ? level->images * level->per_cell : level->images;
    int64_t begin = 0, limit = level->planes ? level->cells : level->cells * level->per_cell;
    for (int64_t group = 0; group < groups; group++) {
        int64_t end = level->hole_end[group];
        if (end < begin || end > count) return 0;
        for (int64_t i = begin; i < end; i++)
            if (level->hole[i] < (i > begin ? level->hole[i - 1] : 0) || level->hole[i] >= limit) return 0;
        begin = end;
    }
    return 1;
}

#endif

/* The names of the instructions that `class_loss` can be made of here, from the best; empty where it cannot run. */
PyObject *class_loss_ways(PyObject *module, PyObject *nothing) {
    (void)module;
    (void)nothing;
    PyObject *names = PyList_New(0);
#if SUPPORTED
    for (int i = 0; names && i < WAYS; i++) {
        const char *name;
        if (!way(i, &name)) continue;
        PyObject *one = PyUnicode_FromString(name);
        if (!one || PyList_Append(names, one) < 0) Py_CLEAR(names);
        Py_XDECREF(one);
    }
#endif
    return names;
}

#if SUPPORTED

/* Sets ValueError and returns 0 unless the arrays are as long as the level's shape says. */
static int fit(const Level *level, const Py_buffer *logits, const Py_buffer *slopes, const Py_buffer *hole_end,
               const Py_buffer *weights, const Py_buffer *scale, const Py_buffer *sums) {
    int64_t size[] = {level->images, level->per_cell, level->classes, level->cells}, all = 1;
    for (int i = 0; i < 4; i++) {
        /* An array has no more elements than 2^60, and a product below that cannot overflow. */
        if (size[i] < 0 || (size[i] > 0 && all > ((int64_t)1 << 60) / size[i])) {
            PyErr_SetString(PyExc_ValueError, "the shape is not one");
            return 0;
        }
        all *= size[i];
    }
    int64_t groups = level->planes ? level->images * level->per_cell : level->images;
    return holds(logits, all, sizeof(float), "logits") &&
           holds(slopes, slopes->len > 0 ? all : 0, sizeof(float), "slopes") &&
           holds(hole_end, groups, sizeof(int64_t), "hole_end") &&
           holds(weights, weights->len > 0 ? level->classes : 0, sizeof(float), "weights") &&
           holds(scale, level->images, sizeof(double), "scale") && holds(sums, level->images, sizeof(double), "sums");
}

#endif

/* class_loss(logits, slopes, (B, A, K, X), planes, hole, hole_end, weights, scale, (kind, gamma, margin), threads,
 *            sums, way)
 *
 * float32 logits and slopes (of length 0: no gradient is wanted), int64 holes, float32 weights of the classes (of
 * length 0: all 1), float64 scale and sums. kind: "cross_entropy", "focal", "hinge". way: a name of
 * `class_loss_ways`, or "" for the best. */
PyObject *class_loss(PyObject *module, PyObject *arguments) {
    (void)module;
#if SUPPORTED
    Level level = {0};
    Py_buffer logits, slopes, hole, hole_end, weights, scale, sums;
    const char *kind, *wanted;
    double margin;
    Py_ssize_t threads;
    long long images, per_cell, classes, cells;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*w*(LLLL)py*y*y*y*(sdd)nw*s:class_loss", &logits, &slopes, &images, &per_cell,
                          &classes, &cells, &level.planes, &hole, &hole_end, &weights, &scale, &kind,
                          &level.loss.gamma, &margin, &threads, &sums, &wanted))
        return NULL;
    level.images = images;
    level.per_cell = per_cell;
    level.classes = classes;
    level.cells = cells;
    level.loss.margin = (float)margin;
    level.loss.kind = strcmp(kind, "focal") == 0 ? FOCAL : strcmp(kind, "hinge") == 0 ? HINGE : CROSS_ENTROPY;
    level.steps = best_way(wanted);
    if (!level.steps) {
        PyErr_SetString(PyExc_RuntimeError, "this processor lacks the instructions; ask class_loss_ways");
    } else if (fit(&level, &logits, &slopes, &hole_end, &weights, &scale, &sums)) {
        level.logits = logits.buf;
        level.slopes = slopes.len > 0 ? slopes.buf : NULL;
        level.hole = hole.buf;
        level.hole_end = hole_end.buf;
        level.weight_of_class = weights.len > 0 ? weights.buf : NULL;
        level.scale = scale.buf;
        int sorted, done = 0;
        Py_BEGIN_ALLOW_THREADS
        sorted = holes_are_sorted(&level, (int64_t)((size_t)hole.len / sizeof(int64_t)));
        if (sorted) done = run(&level, threads, sums.buf);
        Py_END_ALLOW_THREADS
        if (!sorted)
            PyErr_SetString(PyExc_ValueError, "holes are not sorted, or lie outside");
        else if (!done)
            PyErr_NoMemory();
        else
            result = Py_NewRef(Py_None);
    }
    Py_buffer *given[] = {&logits, &slopes, &hole, &hole_end, &weights, &scale, &sums};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) PyBuffer_Release(given[i]);
    return result;
#else
    (void)arguments;
    PyErr_SetString(PyExc_RuntimeError, "built without vectors; ask class_loss_ways");
    return NULL;
#endif
}

/* `foveal._kernels`: the table of functions. */
#include "kernels.h"

#ifndef SOURCES
#define SOURCES 0 /* setup.py says it */
#endif

int holds(const Py_buffer *buffer, int64_t count, size_t size, const char *name) {
    if (count >= 0 && (uint64_t)buffer->len / size >= (uint64_t)count) return 1;
    PyErr_Format(PyExc_ValueError, "%s is shorter than the other arguments say", name);
    return 0;
}

static PyMethodDef functions[] = {
    {"class_loss_ways", class_loss_ways, METH_NOARGS, NULL},
    {"class_loss", class_loss, METH_VARARGS, NULL},
    {"match", match, METH_VARARGS, NULL},
    {"nms", nms, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Tells `foveal/compiled.py` of which sources this was built. */
static int add_constants(PyObject *module) { return PyModule_AddIntConstant(module, "SOURCES", SOURCES); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)add_constants}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "foveal._kernels",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&definition); }

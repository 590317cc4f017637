/* A region of a JPEG, with libjpeg-turbo: what lies left, right, above and below of it is not transformed.
 *
 * The pixels are those of decoding everything and cutting the region out (tests/unit/data/augment/test_jpeg.py), and
 * what is refused is what decoding everything refuses: the bits below the region are read too, to the end.
 * Source of the two calls that make it quick: libjpeg-turbo's libjpeg.txt, jpeg_crop_scanline and jpeg_skip_scanlines.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "needs libjpeg-turbo"
#endif

enum { CHANNELS = 3, MARGIN = 8 };  /* pixels beside the region: smooth upsampling of colours looks at neighbours */

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf place;
    char message[JMSG_LENGTH_MAX];
} Errors;

static void leave(j_common_ptr info) {
    Errors *errors = (Errors *)info->err;
    info->err->format_message(info, errors->message);
    longjmp(errors->place, 1);
}

/* libjpeg's own source of memory would put an end behind bytes that have none, with a warning. */
static boolean refuse_more(j_decompress_ptr info) {
    Errors *errors = (Errors *)info->err;
    snprintf(errors->message, sizeof errors->message, "the image is incomplete or truncated");
    longjmp(errors->place, 1);
    return FALSE;
}

static void skip_bytes(j_decompress_ptr info, long num_bytes) {
    if (num_bytes <= 0)
        return;
    if ((size_t)num_bytes > info->src->bytes_in_buffer)
        refuse_more(info);
    info->src->next_input_byte += num_bytes;
    info->src->bytes_in_buffer -= (size_t)num_bytes;
}

static void keep_quiet(j_common_ptr info) { (void)info; }

typedef struct {
    const unsigned char *content;
    unsigned long num_bytes;
    JDIMENSION top, left, height, width;
    unsigned char *pixels;
    char message[JMSG_LENGTH_MAX];
} Task;

/* Returns 0, or -1 with task->message. Runs without Python's lock. */
static int decode(Task *task) {
    struct jpeg_decompress_struct info;
    Errors errors;
    unsigned char *volatile row = NULL;
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = leave;
    errors.manager.output_message = keep_quiet;
    if (setjmp(errors.place)) {
        memcpy(task->message, errors.message, sizeof task->message);
        jpeg_destroy_decompress(&info);
        free(row);
        return -1;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, task->content, task->num_bytes);
    info.src->fill_input_buffer = refuse_more;
    info.src->skip_input_data = skip_bytes;
    jpeg_read_header(&info, TRUE);
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    if (task->top + task->height > info.output_height || task->left + task->width > info.output_width) {
        snprintf(task->message, sizeof task->message, "the region lies outside of %u x %u pixels", info.output_width,
                 info.output_height);
        jpeg_destroy_decompress(&info);
        return -1;
    }
    JDIMENSION start = task->left > MARGIN ? task->left - MARGIN : 0;
    JDIMENSION stop = task->left + task->width + MARGIN;
    JDIMENSION span = (stop < info.output_width ? stop : info.output_width) - start;
    if (span < info.output_width)
        jpeg_crop_scanline(&info, &start, &span);  /* moves start left to a block's edge, and widens */
    row = malloc((size_t)info.output_width * CHANNELS);
    if (row == NULL) {
        snprintf(task->message, sizeof task->message, "no memory for a row");
        jpeg_destroy_decompress(&info);
        return -1;
    }
    if (task->top > 0)
        jpeg_skip_scanlines(&info, task->top);
    size_t row_bytes = (size_t)task->width * CHANNELS;
    for (JDIMENSION number = 0; number < task->height; number++) {
        JSAMPROW rows[1] = {row};
        if (jpeg_read_scanlines(&info, rows, 1) != 1) {
            snprintf(task->message, sizeof task->message, "ends after %u rows", task->top + number);
            jpeg_destroy_decompress(&info);
            free(row);
            return -1;
        }
        memcpy(task->pixels + number * row_bytes, row + (size_t)(task->left - start) * CHANNELS, row_bytes);
    }
    /* Damage below the region must not pass here and fail elsewhere. All but one row: skipping the last, too, would
     * skip the bits. */
    JDIMENSION num_left = info.output_height - info.output_scanline;
    if (num_left > 1)
        jpeg_skip_scanlines(&info, num_left - 1);
    if (num_left > 0) {
        JSAMPROW rows[1] = {row};
        jpeg_read_scanlines(&info, rows, 1);
    }
    jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    free(row);
    return 0;
}

static PyObject *decode_into(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer content, pixels;
    unsigned int top, left, height, width;
    if (!PyArg_ParseTuple(arguments, "y*w*IIII", &content, &pixels, &top, &left, &height, &width))
        return NULL;
    int failed = 1;
    if (height == 0 || width == 0 || top > JPEG_MAX_DIMENSION || left > JPEG_MAX_DIMENSION ||
        height > JPEG_MAX_DIMENSION || width > JPEG_MAX_DIMENSION ||
        (size_t)pixels.len != (size_t)height * width * CHANNELS) {
        PyErr_SetString(PyExc_ValueError, "the buffer does not fit the region");
    } else {
        Task task = {content.buf, (unsigned long)content.len, top, left, height, width, pixels.buf, ""};
        Py_BEGIN_ALLOW_THREADS
        failed = decode(&task);
        Py_END_ALLOW_THREADS
        if (failed)
            PyErr_SetString(PyExc_ValueError, task.message);
    }
    PyBuffer_Release(&content);
    PyBuffer_Release(&pixels);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"decode_into", decode_into, METH_VARARGS,
     "decode_into(content, pixels, top, left, height, width)\n\n"
     "Fill the writable buffer `pixels`, (height, width, 3) bytes, with that region of a JPEG. Raises ValueError."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "jpeg_region", "A region of a JPEG, with libjpeg-turbo.", -1, METHODS, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_jpeg_region(void) { return PyModule_Create(&MODULE); }

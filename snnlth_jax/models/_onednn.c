// Convolutions of XLA's CPU programs by oneDNN (its C interface, version 3): a target of XLA's foreign functions.
//
// Float32; images N H W C and kernels H W I O, dense. Kinds: 0 is the convolution (x, kernel) -> y, 1 its
// gradient of the images (kernel, dy) -> dx, 2 that of the kernel (x, dy) -> dkernel. One thread makes all
// calls, one at a time, each on the cores of the library's own threads: threads of OpenMP belong to the thread
// that calls, of which XLA has many.

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

typedef void* Handle;  // of any of oneDNN's objects
typedef struct { int argument; Handle memory; } Argument;
typedef struct { int major, minor, patch; const char* hash; unsigned cpu_runtime; } Version;

#define FUNCTIONS(X) \
  X(const Version*, version, (void)) \
  X(int, get_effective_cpu_isa, (void)) \
  X(int, engine_create, (Handle*, int, size_t)) \
  X(int, stream_create, (Handle*, Handle, unsigned)) \
  X(int, stream_wait, (Handle)) \
  X(int, primitive_attr_create, (Handle*)) \
  X(int, primitive_attr_set_scratchpad_mode, (Handle, int)) \
  X(int, memory_desc_create_with_strides, (Handle*, int, const int64_t*, int, const int64_t*)) \
  X(int, memory_desc_create_with_tag, (Handle*, int, const int64_t*, int, int)) \
  X(int, memory_desc_equal, (Handle, Handle)) \
  X(size_t, memory_desc_get_size, (Handle)) \
  X(Handle, primitive_desc_query_md, (Handle, int, int)) \
  X(int, convolution_forward_primitive_desc_create, (Handle*, Handle, int, int, Handle, Handle, Handle, Handle, \
    const int64_t*, const int64_t*, const int64_t*, const int64_t*, Handle)) \
  X(int, convolution_backward_data_primitive_desc_create, (Handle*, Handle, int, Handle, Handle, Handle, \
    const int64_t*, const int64_t*, const int64_t*, const int64_t*, Handle, Handle)) \
  X(int, convolution_backward_weights_primitive_desc_create, (Handle*, Handle, int, Handle, Handle, Handle, Handle, \
    const int64_t*, const int64_t*, const int64_t*, const int64_t*, Handle, Handle)) \
  X(int, reorder_primitive_desc_create, (Handle*, Handle, Handle, Handle, Handle, Handle)) \
  X(int, primitive_create, (Handle*, Handle)) \
  X(int, memory_create, (Handle*, Handle, Handle, void*)) \
  X(int, memory_set_data_handle, (Handle, void*)) \
  X(int, primitive_execute, (Handle, Handle, int, const Argument*))
#define DECLARE(type, name, arguments) static type(*name) arguments;
FUNCTIONS(DECLARE)

// constants of dnnl_types.h
enum { AVX512 = 0x20, CPU = 1, IN_ORDER = 1, USER = 1, F32 = 3, ANY = 1, TRAINING = 64, DIRECT = 1 };
enum { SRC = 1, DST = 17, WEIGHTS = 33, SCRATCHPAD = 80, DIFF_SRC = 129, DIFF_DST = 145, DIFF_WEIGHTS = 161 };
enum { QUERY_WEIGHTS = 131, QUERY_DIFF_WEIGHTS = 132, QUERY_SCRATCHPAD = 136 };
enum { FORWARD, GRAD_X, GRAD_KERNEL };

static Handle engine, stream, attributes;

// --- plans: what oneDNN prepares for one shape

typedef struct Plan {
  int64_t key[10];  // kind, stride, dimensions of the images (N H W C) and of the kernel (H W I O)
  Handle convolution, reorder;  // the latter between our layout of the kernel and the library's, if it has another
  Handle x, kernel, y, weights, scratchpad;
  size_t weights_size, scratchpad_size;
  struct Plan* next;
} Plan;

#define CHECK(name, ...) \
  do { \
    if (name(__VA_ARGS__)) return #name; \
  } while (0)

static const char* prepare(Plan* plan) {
  const int64_t kind = plan->key[0], stride = plan->key[1], *image = plan->key + 2, *size = plan->key + 6;
  const int64_t n = image[0], h = image[1], w = image[2], c = image[3], o = size[3], border = size[0] / 2;
  const int64_t rows = (h + stride - 1) / stride, columns = (w + stride - 1) / stride;
  const int64_t x_dims[] = {n, c, h, w}, x_strides[] = {h * w * c, 1, w * c, c};
  const int64_t y_dims[] = {n, o, rows, columns}, y_strides[] = {rows * columns * o, 1, columns * o, o};
  const int64_t k_dims[] = {o, c, size[0], size[1]}, k_strides[] = {1, o, size[1] * c * o, c * o};
  const int64_t strides[] = {stride, stride}, no[] = {0, 0}, before[] = {border, border};
  const int64_t after[] = {border, border};
  Handle x, y, kernel, any, forward, description, weights, scratchpad, reorder;

  CHECK(memory_desc_create_with_strides, &x, 4, x_dims, F32, x_strides);
  CHECK(memory_desc_create_with_strides, &y, 4, y_dims, F32, y_strides);
  CHECK(memory_desc_create_with_strides, &kernel, 4, k_dims, F32, k_strides);
  CHECK(memory_desc_create_with_tag, &any, 4, k_dims, F32, ANY);
  CHECK(convolution_forward_primitive_desc_create, &forward, engine, TRAINING, DIRECT, x, any, NULL, y, strides, no,
        before, after, attributes);
  if (kind == FORWARD)
    description = forward;
  else if (kind == GRAD_X)
    CHECK(convolution_backward_data_primitive_desc_create, &description, engine, DIRECT, x, any, y, strides, no,
          before, after, forward, attributes);
  else
    CHECK(convolution_backward_weights_primitive_desc_create, &description, engine, DIRECT, x, any, NULL, y, strides,
          no, before, after, forward, attributes);
  weights = primitive_desc_query_md(description, kind == GRAD_KERNEL ? QUERY_DIFF_WEIGHTS : QUERY_WEIGHTS, 0);
  scratchpad = primitive_desc_query_md(description, QUERY_SCRATCHPAD, 0);
  CHECK(primitive_create, &plan->convolution, description);
  CHECK(memory_create, &plan->x, x, engine, NULL);
  CHECK(memory_create, &plan->y, y, engine, NULL);
  CHECK(memory_create, &plan->kernel, kernel, engine, NULL);
  CHECK(memory_create, &plan->weights, weights, engine, NULL);
  CHECK(memory_create, &plan->scratchpad, scratchpad, engine, NULL);
  plan->scratchpad_size = memory_desc_get_size(scratchpad);
  if (memory_desc_equal(weights, kernel)) return NULL;
  plan->weights_size = memory_desc_get_size(weights);
  Handle from = kind == GRAD_KERNEL ? weights : kernel, to = kind == GRAD_KERNEL ? kernel : weights;
  CHECK(reorder_primitive_desc_create, &reorder, from, engine, to, engine, NULL);
  CHECK(primitive_create, &plan->reorder, reorder);
  return NULL;
}

static const char* find(const int64_t* key, Plan** found) {
  static Plan* plans;
  for (Plan* plan = plans; plan; plan = plan->next)
    if (!memcmp(plan->key, key, sizeof plan->key)) return *found = plan, NULL;
  Plan* plan = calloc(1, sizeof *plan);
  if (!plan) return "memory";
  memcpy(plan->key, key, sizeof plan->key);
  const char* failed = prepare(plan);
  if (failed) return failed;
  plan->next = plans;
  return *found = plans = plan, NULL;
}

// --- a call

typedef struct { int64_t key[10]; void *x, *kernel, *y; const char* failed; int done; } Job;
typedef struct { void* data; size_t size; } Room;  // that all plans share

static void* grown(Room* room, size_t size) {
  if (size > room->size) {
    free(room->data);
    room->size = (size + 4095) / 4096 * 4096;
    if (posix_memalign(&room->data, 4096, room->size)) *room = (Room){NULL, 0};
  }
  return room->data;
}

static const char* compute(Job* job) {
  static Room weights_room, scratchpad_room;
  Plan* plan = NULL;
  const char* failed = find(job->key, &plan);
  if (failed) return failed;
  void* weights = plan->reorder ? grown(&weights_room, plan->weights_size) : job->kernel;
  void* scratchpad = grown(&scratchpad_room, plan->scratchpad_size);
  if (!weights || (plan->scratchpad_size && !scratchpad)) return "memory";
  CHECK(memory_set_data_handle, plan->x, job->x);
  CHECK(memory_set_data_handle, plan->y, job->y);
  CHECK(memory_set_data_handle, plan->kernel, job->kernel);
  CHECK(memory_set_data_handle, plan->weights, weights);
  CHECK(memory_set_data_handle, plan->scratchpad, scratchpad);
  const int64_t kind = job->key[0];
  const Argument convolution[] = {{kind == GRAD_X ? DIFF_SRC : SRC, plan->x},
                                  {kind == GRAD_KERNEL ? DIFF_WEIGHTS : WEIGHTS, plan->weights},
                                  {kind == FORWARD ? DST : DIFF_DST, plan->y},
                                  {SCRATCHPAD, plan->scratchpad}};
  const Argument into[] = {{SRC, plan->kernel}, {DST, plan->weights}};
  const Argument out_of[] = {{SRC, plan->weights}, {DST, plan->kernel}};
  if (plan->reorder && kind != GRAD_KERNEL) CHECK(primitive_execute, plan->reorder, stream, 2, into);
  CHECK(primitive_execute, plan->convolution, stream, 4, convolution);
  if (plan->reorder && kind == GRAD_KERNEL) CHECK(primitive_execute, plan->reorder, stream, 2, out_of);
  CHECK(stream_wait, stream);
  return NULL;
}

// --- the thread that makes all calls

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static Job* job;
static int working;

static void* work(void* unused) {
  pthread_mutex_lock(&mutex);
  for (;;) {
    while (!job) pthread_cond_wait(&changed, &mutex);
    Job* current = job;
    pthread_mutex_unlock(&mutex);
    current->failed = compute(current);
    pthread_mutex_lock(&mutex);
    current->done = 1;
    job = NULL;
    pthread_cond_broadcast(&changed);
  }
  return unused;
}

static void hand_over(Job* given) {
  pthread_t thread;
  pthread_mutex_lock(&mutex);
  if (!working && !pthread_create(&thread, NULL, work, NULL)) working = !pthread_detach(thread);
  if (working) {
    while (job) pthread_cond_wait(&changed, &mutex);
    job = given;
    pthread_cond_broadcast(&changed);
    while (!given->done) pthread_cond_wait(&changed, &mutex);
  } else {
    given->failed = "pthread_create";
  }
  pthread_mutex_unlock(&mutex);
}

// --- what XLA and Python call

XLA_FFI_Error* snnlth_convolution(XLA_FFI_CallFrame* frame) {
  __typeof__(frame->extension_start) extension = frame->extension_start;  // later headers name its type otherwise
  if (extension && extension->type == XLA_FFI_Extension_Metadata) {
    XLA_FFI_Metadata* metadata = ((XLA_FFI_Metadata_Extension*)extension)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    metadata->traits = 0;
    return NULL;
  }
  // attributes are sorted by name: kind, stride
  const int64_t kind = *(int64_t*)((XLA_FFI_Scalar*)frame->attrs.attrs[0])->value;
  XLA_FFI_Buffer *first = frame->args.args[0], *second = frame->args.args[1], *result = frame->rets.rets[0];
  XLA_FFI_Buffer* x = kind == GRAD_X ? result : first;
  XLA_FFI_Buffer* kernel = kind == FORWARD ? second : kind == GRAD_X ? first : result;
  XLA_FFI_Buffer* y = kind == FORWARD ? result : second;
  const int64_t stride = *(int64_t*)((XLA_FFI_Scalar*)frame->attrs.attrs[1])->value;
  Job given = {{kind, stride}, x->data, kernel->data, y->data, NULL, 0};
  memcpy(given.key + 2, x->dims, 4 * sizeof(int64_t));
  memcpy(given.key + 6, kernel->dims, 4 * sizeof(int64_t));
  hand_over(&given);
  if (!given.failed) return NULL;
  char message[200];
  snprintf(message, sizeof message, "oneDNN cannot compute a convolution: %s failed", given.failed);
  XLA_FFI_Error_Create_Args error = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, XLA_FFI_Error_Code_INTERNAL};
  return frame->api->XLA_FFI_Error_Create(&error);
}

// Load oneDNN from a file; write the three parts of its version, and whether it has instructions of AVX-512.
// Return NULL, or what failed.
const char* snnlth_open(const char* file, int* numbers) {
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!library) return dlerror();
#define LOAD(type, name, arguments) \
  if (!(*(void**)&name = dlsym(library, "dnnl_" #name))) return "it lacks dnnl_" #name;
  *(void**)&version = dlsym(library, "dnnl_version");
  if (!version) return "it lacks dnnl_version";
  const Version* found = version();
  numbers[0] = found->major, numbers[1] = found->minor, numbers[2] = found->patch;
  if (found->major != 3) return "version 3 is needed";
  if (!(found->cpu_runtime & 7)) return "its threads are neither its own nor those of OpenMP or TBB";
  FUNCTIONS(LOAD)
  numbers[3] = (get_effective_cpu_isa() & AVX512) != 0;
  CHECK(engine_create, &engine, CPU, 0);
  CHECK(stream_create, &stream, engine, IN_ORDER);
  CHECK(primitive_attr_create, &attributes);
  CHECK(primitive_attr_set_scratchpad_mode, attributes, USER);
  return NULL;
}

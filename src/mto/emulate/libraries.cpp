// What a program reads from CUDA's driver and libraries. Whatever else it calls of them is a stub that succeeds and is
// counted (`mto.emulate.build` writes those). Without NVIDIA's headers: arguments that are not used are left out.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define MAKES(name) \
  EXPORT int name(void** made) { return *made = malloc(64), 0; }
#define FREES(name) \
  EXPORT int name(void* made) { return free(made), 0; }

extern "C" void emulated_counted(const char* what);
extern "C" int emulated_count();
extern "C" int cudaDeviceGetAttribute(int* value, int attribute, int device);
extern "C" int cudaGetDevice(int* index);
extern "C" int cudaDriverGetVersion(int* version);

namespace {
int context;  // one serves all devices: who asks for it only looks whether there is one

int launched(void* kernel) {
  char what[512];
  snprintf(what, sizeof what, "launch triton %s", (const char*)kernel);
  return emulated_counted(what), 0;
}
}  // namespace

// ------------------------------------------------------------------------------------------------------------- driver
EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuDriverGetVersion(int* version) { return cudaDriverGetVersion(version); }
EXPORT int cuDeviceGetCount(int* count) { return *count = emulated_count(), 0; }
EXPORT int cuDeviceGet(int* device, int index) { return *device = index, 0; }
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
EXPORT int cuCtxGetCurrent(void** current) { return *current = &context, 0; }
EXPORT int cuCtxGetDevice(int* device) { return cudaGetDevice(device); }
EXPORT int cuCtxGetLimit(size_t* value, int) { return *value = 0, 0; }
EXPORT int cuDevicePrimaryCtxRetain(void** retained, int) { return *retained = &context, 0; }
EXPORT int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) { return *flags = 0, *active = 1, 0; }
EXPORT int cuModuleLoadData(void** made, const void*) { return *made = malloc(64), 0; }
EXPORT int cuModuleLoadDataEx(void** made, const void*) { return *made = malloc(64), 0; }
EXPORT int cuModuleLoad(void** made, const char*) { return *made = malloc(64), 0; }
EXPORT int cuModuleGetFunction(void** function, void*, const char* name) { return *function = strdup(name), 0; }
EXPORT int cuFuncGetAttribute(int* value, int attribute, void*) { return *value = attribute == 0 ? 1024 : attribute == 4 ? 32 : 0, 0; }
EXPORT int cuLaunchKernel(void* function) { return launched(function); }
EXPORT int cuLaunchKernelEx(void*, void* function) { return launched(function); }
EXPORT int cuLaunchCooperativeKernel(void* function) { return launched(function); }
EXPORT int cuPointerGetAttribute(void** value, int, void* pointer) { return *value = pointer, 0; }
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n) { return *n = 2, 0; }
EXPORT int cuOccupancyMaxActiveClusters(int* n) { return *n = 64, 0; }
EXPORT int cuStreamIsCapturing(void*, int* status) { return *status = 0, 0; }
EXPORT int cuMemGetAllocationGranularity(size_t* bytes) { return *bytes = 2097152, 0; }
EXPORT int cuMemGetAddressRange_v2(void** base, size_t* size, void* pointer) { return *base = pointer, *size = 0, 0; }
EXPORT int cuGetErrorString(int, const char** text) { return *text = "emulated", 0; }
EXPORT int cuGetErrorName(int, const char** text) { return *text = "emulated", 0; }
EXPORT int cuGetExportTable() { return 500; }  // not found
EXPORT int cuGetProcAddress_v2(const char* name, void** entry) { return *entry = dlsym(RTLD_DEFAULT, name), 0; }

// ---------------------------------------------------------------------------------------------------------- libraries
MAKES(cublasCreate_v2)
MAKES(cublasLtCreate)
MAKES(cublasLtMatmulPreferenceCreate)
MAKES(cudnnCreate)
MAKES(cusolverDnCreate)
MAKES(cusolverDnCreateParams)
MAKES(cusolverDnCreateSyevjInfo)
FREES(cublasLtMatmulDescDestroy)
FREES(cublasLtMatrixLayoutDestroy)
FREES(cublasLtMatmulPreferenceDestroy)
// Products of float32 numbers are counted by the precision that they are asked for in. A process may allow TF32 by the
// kind of computation, and by the handle's mode.
namespace {
constexpr int FLOAT32 = 0, FAST_TF32 = 77, TF32_MODE = 3;  // CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_TF32_TENSOR_OP_MATH
thread_local int math_mode = 0;

int multiplied(const char* name, int type, int computation, int mode) {
  const char* precision = type != FLOAT32 ? "" : computation == FAST_TF32 || (mode & 15) == TF32_MODE ? " in TF32" : " in float32";
  char what[128];
  snprintf(what, sizeof what, "launch library %s%s", name, precision);
  return emulated_counted(what), 0;
}

int keep(void** made, int value) { return *made = malloc(64), *(int*)*made = value, 0; }
}  // namespace
EXPORT int cublasSetMathMode(void*, int mode) { return math_mode = mode, 0; }
EXPORT int cublasGetMathMode(void*, int* mode) { return *mode = math_mode, 0; }
EXPORT int cublasGemmEx(void*, int, int, int, int, int, void*, void*, int type, int, void*, int, int, void*, void*, int, int, int computation) {
  return multiplied("cublasGemmEx", type, computation, math_mode);
}
EXPORT int cublasGemmStridedBatchedEx(void*, int, int, int, int, int, void*, void*, int type, int, long, void*, int, int, long, void*, void*, int, int,
                                      long, int, int computation) {
  return multiplied("cublasGemmStridedBatchedEx", type, computation, math_mode);
}
EXPORT int cublasLtMatmulDescCreate(void** made, int computation) { return keep(made, computation); }
EXPORT int cublasLtMatrixLayoutCreate(void** made, int type) { return keep(made, type); }
EXPORT int cublasLtMatmul(void*, int* computation, void*, void*, int* type) { return multiplied("cublasLtMatmul", *type, *computation, 0); }
EXPORT int cublasGetPointerMode_v2(void*, int* mode) { return *mode = 0, 0; }
EXPORT size_t cublasLtGetVersion() { return 130400; }
EXPORT int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* results, int* found) {
  return memset(results, 0, 96), *found = 1, 0;  // one algorithm, which needs no workspace
}
EXPORT size_t cudnnGetVersion() { return 92600; }
EXPORT size_t cudnnGetCudartVersion() { return 13020; }
EXPORT const char* cudnnGetErrorString(int) { return "emulated"; }
// Workspaces of the symmetric eigenvalues (`collapse` in losses/diagnostics.py), of n x n values of at most 8 bytes.
EXPORT int cusolverDnXsyevd_bufferSize(void*, void*, int, int, long n, int, void*, long, int, void*, int, size_t* device, size_t* host) {
  return *device = n * n * 8, *host = 1024, 0;
}
EXPORT int cusolverDnXsyevBatched_bufferSize(void*, void*, int, int, long n, int, void*, long, int, void*, int, size_t* device, size_t* host) {
  return *device = n * n * 8, *host = 1024, 0;
}
EXPORT int cusolverDnSsyevd_bufferSize(void*, int, int, int n, void*, int, void*, int* values) { return *values = n * n * 2, 0; }

// A CUDA runtime without a GPU: every call succeeds, kernels do nothing, and "device" memory is the host's own, reserved
// and not touched. What a program asks of it is counted. `mto.emulate.build` compiles it, together with libraries.cpp.
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// What `emulated_configure` was told of each device.
struct Card {
  int count = 1, capability = 90, multiprocessors = 132, shared_block = 232448, shared = 233472, threads = 2048, l2 = 52428800;
  size_t bytes = size_t(80) << 30;
} card;

struct Block {
  size_t bytes;
  int device;
};

std::recursive_mutex mutex;  // autograd, loaders and gloo have threads of their own
std::map<char*, Block> blocks;
std::map<int, size_t> used;
std::map<std::string, long> counts;  // "launch NAME", "wait CALL", "copy KIND", "bytes KIND", "call NAME"
std::unordered_map<const void*, std::string> kernels;

thread_local int device = 0;
thread_local cudaError_t last_error = cudaSuccess;
struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
thread_local std::vector<Configuration> configurations;

using Lock = std::lock_guard<std::recursive_mutex>;

void count(const std::string& what, long n = 1) {
  Lock lock(mutex);
  counts[what] += n;
}

void launched(const void* function) {
  Lock lock(mutex);
  auto found = kernels.find(function);
  count("launch " + (found == kernels.end() ? std::string("unknown") : found->second));
}

const Block* block_of(const void* pointer) {
  auto next = blocks.upper_bound((char*)pointer);
  if (next == blocks.begin()) return nullptr;
  auto& [start, block] = *--next;
  return (char*)pointer < start + block.bytes ? &block : nullptr;
}

cudaError_t allocate(void** pointer, size_t bytes) {
  Lock lock(mutex);
  *pointer = nullptr;
  if (used[device] + bytes > card.bytes) return last_error = cudaErrorMemoryAllocation;
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return last_error = cudaErrorMemoryAllocation;
  blocks[(char*)start] = {bytes, device};
  used[device] += bytes;
  *pointer = start;
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  Lock lock(mutex);
  auto found = blocks.find((char*)pointer);
  if (found == blocks.end()) return cudaSuccess;
  munmap(pointer, found->second.bytes);
  used[found->second.device] -= found->second.bytes;
  blocks.erase(found);
  return cudaSuccess;
}

// Copies are real, so that a program reads back what it wrote. Between devices large ones are left out where kernels
// do nothing: nothing is there to copy.
bool copies_all = true;
cudaError_t copy(void* to, const void* from, size_t bytes) {
  Lock lock(mutex);
  bool onto = block_of(to), off = block_of(from);
  const char* kind = onto && off ? "on the device" : onto ? "to the device" : off ? "to the host" : "on the host";
  count(std::string("copy ") + kind);
  count(std::string("bytes ") + kind, long(bytes));
  if (copies_all || !(onto && off) || bytes <= (1 << 20)) memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t fill(void* to, int value, size_t bytes) {
  count("call cudaMemset");
  if (copies_all || bytes <= (1 << 20)) memset(to, value, bytes);
  return cudaSuccess;
}

template <class T>
cudaError_t handle(T* made) {
  *made = (T)malloc(64);
  return cudaSuccess;
}

cudaError_t wait(const char* call) {
  count(std::string("wait ") + call);
  return cudaSuccess;
}

}  // namespace

// ------------------------------------------------------------------------------------------------ for mto.emulate
EXPORT void emulated_configure(int count, int capability, size_t bytes, int multiprocessors, int shared_block, int shared,
                               int threads, int l2, int copy_all) {
  card = {count, capability, multiprocessors, shared_block, shared, threads, l2, bytes};
  copies_all = copy_all;
}
EXPORT int emulated_count() { return card.count; }
EXPORT void emulated_counted(const char* what) { count(what); }
EXPORT void emulated_reset() {
  Lock lock(mutex);
  counts.clear();
}
// Lines of "COUNT\tWHAT", until the next call.
EXPORT const char* emulated_report() {
  static std::string text;
  Lock lock(mutex);
  text.clear();
  for (auto& [what, n] : counts) {
    std::string name = what;
    if (what.rfind("launch _Z", 0) == 0) {
      int status;
      if (char* plain = abi::__cxa_demangle(what.c_str() + 7, nullptr, nullptr, &status)) name = "launch " + std::string(plain), free(plain);
    }
    text += std::to_string(n) + "\t" + name + "\n";
  }
  return text.c_str();
}

// ----------------------------------------------------------------------------------------- registration and launches
EXPORT void** __cudaRegisterFatBinary(void*) { return (void**)malloc(64); }
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORT void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  Lock lock(mutex);
  kernels[function] = name;
}
EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  Configuration top = configurations.back();
  configurations.pop_back();
  *grid = top.grid, *block = top.block, *shared = top.shared, *(void**)stream = top.stream;
  return cudaSuccess;
}
EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) { return *kernel = (cudaKernel_t)function, cudaSuccess; }
EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t) { return launched((const void*)kernel), cudaSuccess; }
EXPORT cudaError_t cudaLaunchKernel(const void* function, dim3, dim3, void**, size_t, cudaStream_t) { return launched(function), cudaSuccess; }
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* function, void**) { return launched(function), cudaSuccess; }
EXPORT cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3, dim3, void**, size_t, cudaStream_t) { return launched(function), cudaSuccess; }
EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) { return function(data), cudaSuccess; }
EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned) {
  return callback(stream, cudaSuccess, data), cudaSuccess;
}
EXPORT cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024, attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = card.capability;
  attributes->maxDynamicSharedSizeBytes = card.shared_block;
  return cudaSuccess;
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { return *n = 2, cudaSuccess; }
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { return *n = 2, cudaSuccess; }

// ------------------------------------------------------------------------------------------------------------ devices
EXPORT cudaError_t cudaGetDeviceCount(int* n) { return *n = card.count, cudaSuccess; }
EXPORT cudaError_t cudaGetDevice(int* index) { return *index = device, cudaSuccess; }
EXPORT cudaError_t cudaSetDevice(int index) { return device = index, cudaSuccess; }
EXPORT cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
EXPORT cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* low, int* high) {
  if (low) *low = 0;
  if (high) *high = -5;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int index) { return snprintf(text, size, "0000:%02x:00.0", index + 1), cudaSuccess; }
EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "emulated GPU, compute capability %d.%d, %zu GB", card.capability / 10, card.capability % 10, card.bytes >> 30);
  p->major = card.capability / 10, p->minor = card.capability % 10;
  p->totalGlobalMem = card.bytes, p->multiProcessorCount = card.multiprocessors, p->l2CacheSize = card.l2;
  p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = card.shared_block, p->sharedMemPerMultiprocessor = card.shared;
  p->reservedSharedMemPerBlock = 1024, p->regsPerBlock = p->regsPerMultiprocessor = 65536, p->totalConstMem = 65536;
  p->warpSize = 32, p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = card.threads, p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->memPitch = 2147483647, p->textureAlignment = 512, p->memoryBusWidth = 5120, p->asyncEngineCount = 3;
  p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = p->cooperativeLaunch = p->streamPrioritiesSupported = 1;
  p->clusterLaunch = card.capability >= 90;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  static const std::map<int, int> fixed = {
      {cudaDevAttrMaxThreadsPerBlock, 1024}, {cudaDevAttrMaxSharedMemoryPerBlock, 49152}, {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMaxRegistersPerBlock, 65536}, {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
      {cudaDevAttrMaxGridDimX, 2147483647}, {cudaDevAttrMaxGridDimY, 65535}, {cudaDevAttrMaxGridDimZ, 65535},
      {cudaDevAttrMaxBlockDimX, 1024}, {cudaDevAttrMaxBlockDimY, 1024}, {cudaDevAttrMaxBlockDimZ, 64},
      {cudaDevAttrCooperativeLaunch, 1}, {cudaDevAttrUnifiedAddressing, 1}, {cudaDevAttrMaxBlocksPerMultiprocessor, 32}};
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = card.shared_block; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = card.shared; break;
    case cudaDevAttrMultiProcessorCount: *value = card.multiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = card.capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = card.capability % 10; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = card.threads; break;
    case cudaDevAttrL2CacheSize: *value = card.l2; break;
    default: *value = fixed.count(attribute) ? fixed.at(attribute) : 0;
  }
  return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------------------- memory
EXPORT cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes); }
EXPORT cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return allocate(pointer, bytes); }
EXPORT cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned) { return allocate(pointer, bytes); }
EXPORT cudaError_t cudaFree(void* pointer) { return release(pointer); }
EXPORT cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return release(pointer); }
EXPORT cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return posix_memalign(pointer, 4096, bytes ? bytes : 1) ? cudaErrorMemoryAllocation : cudaSuccess;
}
EXPORT cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }
EXPORT cudaError_t cudaFreeHost(void* pointer) { return free(pointer), cudaSuccess; }
EXPORT cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(mutex);
  *total = card.bytes, *free = card.bytes - used[device];
  return cudaSuccess;
}
EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  Lock lock(mutex);
  memset(attributes, 0, sizeof *attributes);
  const Block* block = block_of(pointer);
  attributes->type = block ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  attributes->device = block ? block->device : 0;
  (block ? attributes->devicePointer : attributes->hostPointer) = (void*)pointer;
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return wait("cudaMemcpy"), copy(to, from, bytes); }
EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) { return copy(to, from, bytes); }
EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t) { return copy(to, from, bytes); }
EXPORT cudaError_t cudaMemcpy2DAsync(void* to, size_t pitch_to, const void* from, size_t pitch_from, size_t width, size_t height, cudaMemcpyKind, cudaStream_t) {
  for (size_t row = 0; row < height; row++) copy((char*)to + row * pitch_to, (const char*)from + row * pitch_from, width);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
EXPORT cudaError_t cudaMemset(void* to, int value, size_t bytes) { return fill(to, value, bytes); }
EXPORT cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { return fill(to, value, bytes); }
EXPORT cudaError_t cudaGetSymbolAddress(void** pointer, const void*) {
  static char symbols[1 << 16];
  return *pointer = symbols, cudaSuccess;
}

// -------------------------------------------------------------------------------------- streams, events, graphs, errors
EXPORT cudaError_t cudaStreamCreate(cudaStream_t* made) { return handle(made); }
EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* made, unsigned) { return handle(made); }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* made, unsigned, int) { return handle(made); }
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { return *priority = 0, cudaSuccess; }
EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t) { return wait("cudaStreamSynchronize"); }
EXPORT cudaError_t cudaDeviceSynchronize() { return wait("cudaDeviceSynchronize"); }
EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t) { return wait("cudaEventSynchronize"); }
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) { return *status = cudaStreamCaptureStatusNone, cudaSuccess; }
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t*,
                                            const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t* edges) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  if (edges) *edges = 0;
  return cudaSuccess;
}
EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
EXPORT cudaError_t cudaEventCreate(cudaEvent_t* made) { return handle(made); }
EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* made, unsigned) { return handle(made); }
EXPORT cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) { return *milliseconds = 1.0f, cudaSuccess; }
EXPORT cudaError_t cudaGetLastError() {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
EXPORT cudaError_t cudaPeekAtLastError() { return last_error; }
EXPORT const char* cudaGetErrorName(cudaError_t error) { return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaEmulated"; }
EXPORT const char* cudaGetErrorString(cudaError_t error) { return error == cudaErrorMemoryAllocation ? "out of memory" : "emulated"; }
EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** entry, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
  *entry = dlsym(RTLD_DEFAULT, name);
  if (result) *result = *entry ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// The part of onnxruntime's C interface that the library uses.
//
// onnxruntime gives a library a table of functions, and takes structs of functions from it. By onnxruntime's rules both
// grow only at their end, and the version in a struct says how many entries it has. So this file declares each function
// at its position and pads the entries between them, and the library needs no header of onnxruntime.

#pragma once

#include <cstddef>
#include <cstdint>

namespace mmsparx::ort {

// Types that are opaque outside onnxruntime.
struct Status;
struct Value;
struct Shape;
struct Context;
struct KernelInfo;
struct Domain;
struct SessionOptions;

// Version of the table, which is onnxruntime's minor version. 1.17 is the first with KernelContext_ParallelFor.
constexpr int kOldestApi = 17;

constexpr int kFail = 1, kInvalidArgument = 2;  // OrtErrorCode
constexpr int kFloat = 1;                       // ONNXTensorElementDataType

struct CustomOp;

// A null Status means success.
struct Api {
  Status* (*CreateStatus)(int code, const char* message);
  void* from_1[25];
  Status* (*CreateCustomOpDomain)(const char* name, Domain** out);
  Status* (*CustomOpDomain_Add)(Domain*, const CustomOp*);
  Status* (*AddCustomOpDomain)(SessionOptions*, Domain*);
  void* from_29[22];
  Status* (*GetTensorMutableData)(Value*, void** out);
  void* from_52[9];
  Status* (*GetDimensionsCount)(const Shape*, size_t* out);
  Status* (*GetDimensions)(const Shape*, int64_t* out, size_t count);
  void* from_63[2];
  Status* (*GetTensorTypeAndShape)(const Value*, Shape** out);
  void* from_66[24];
  Status* (*KernelContext_GetInput)(const Context*, size_t index, const Value** out);
  Status* (*KernelContext_GetOutput)(Context*, size_t index, const int64_t* shape, size_t axes, Value** out);
  void* from_92[7];
  void (*ReleaseTensorTypeAndShapeInfo)(Shape*);
  void* from_100[1];
  void (*ReleaseCustomOpDomain)(Domain*);
  void* from_102[172];
  // Calls run(data, 0) to run(data, total - 1) on the session's threads, without batching if `batches` is 0.
  Status* (*KernelContext_ParallelFor)(const Context*, void (*run)(void* data, size_t i), size_t total, size_t batches,
                                       void* data);
};

constexpr size_t position(size_t offset) { return offset / sizeof(void*); }
static_assert(position(offsetof(Api, CreateCustomOpDomain)) == 26);
static_assert(position(offsetof(Api, GetTensorMutableData)) == 51);
static_assert(position(offsetof(Api, GetDimensionsCount)) == 61);
static_assert(position(offsetof(Api, GetTensorTypeAndShape)) == 65);
static_assert(position(offsetof(Api, KernelContext_GetInput)) == 90);
static_assert(position(offsetof(Api, ReleaseTensorTypeAndShapeInfo)) == 99);
static_assert(position(offsetof(Api, ReleaseCustomOpDomain)) == 101);
static_assert(position(offsetof(Api, KernelContext_ParallelFor)) == 274);

struct ApiBase {
  const Api* (*GetApi)(uint32_t version);  // null, with a line on stderr, for an unknown version
  const char* (*GetVersionString)();
};

// An operator in version 16, the first whose kernels return a status.
struct CustomOp {
  uint32_t version = 16;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*) = nullptr;  // CreateKernelV2 is called instead
  const char* (*GetName)(const CustomOp*) = nullptr;
  const char* (*GetExecutionProviderType)(const CustomOp*) = nullptr;  // null for the CPU's
  int (*GetInputType)(const CustomOp*, size_t) = nullptr;
  size_t (*GetInputTypeCount)(const CustomOp*) = nullptr;
  int (*GetOutputType)(const CustomOp*, size_t) = nullptr;
  size_t (*GetOutputTypeCount)(const CustomOp*) = nullptr;
  void (*KernelCompute)(void*, Context*) = nullptr;  // KernelComputeV2 is called instead
  void (*KernelDestroy)(void*) = nullptr;
  int (*GetInputCharacteristic)(const CustomOp*, size_t) = nullptr;  // 0: required
  int (*GetOutputCharacteristic)(const CustomOp*, size_t) = nullptr;
  int (*GetInputMemoryType)(const CustomOp*, size_t) = nullptr;  // 0: that of the execution provider
  int (*GetVariadicInputMinArity)(const CustomOp*) = nullptr;    // called only for variadic inputs and outputs
  int (*GetVariadicInputHomogeneity)(const CustomOp*) = nullptr;
  int (*GetVariadicOutputMinArity)(const CustomOp*) = nullptr;
  int (*GetVariadicOutputHomogeneity)(const CustomOp*) = nullptr;
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel) = nullptr;
  Status* (*KernelComputeV2)(void* kernel, Context*) = nullptr;
};

}  // namespace mmsparx::ort

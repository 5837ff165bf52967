// libmmsparx_ort: the scans as custom operators of onnxruntime, for SessionOptions.register_custom_ops_library.
//
// Exported files carry functions of the same names (mmsparx/export/scan_names.py), and onnxruntime runs the operators
// in place of these functions.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>

#include "../common/cpu/instruction_sets.h"
#include "onnxruntime.h"
#include "scans.h"

namespace mmsparx::ort {
namespace {

struct Operator : CustomOp {
  Operator(const char* name, size_t inputs, void (*run)(const Node&)) : name(name), inputs(inputs), run(run) {
    GetName = [](const CustomOp* op) { return of(op).name; };
    GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const CustomOp* op) { return of(op).inputs; };
    GetOutputTypeCount = [](const CustomOp*) { return size_t{1}; };
    GetInputType = GetOutputType = [](const CustomOp*, size_t) { return kFloat; };
    GetInputCharacteristic = GetOutputCharacteristic = GetInputMemoryType = [](const CustomOp*, size_t) { return 0; };
    CreateKernelV2 = create;
    KernelComputeV2 = compute;
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }

  const char* name;
  size_t inputs;
  void (*run)(const Node&);

 private:
  struct Kernel {
    const Api& api;
    const Operator& op;
  };

  static const Operator& of(const CustomOp* op) { return *static_cast<const Operator*>(op); }

  static Status* create(const CustomOp* op, const Api* api, const KernelInfo*, void** kernel) {
    *kernel = new (std::nothrow) Kernel{*api, of(op)};
    return *kernel ? nullptr : api->CreateStatus(kFail, "mmsparx: out of memory");
  }

  static Status* compute(void* given, Context* context) {
    const Kernel& kernel = *static_cast<const Kernel*>(given);
    try {
      kernel.op.run(Node(kernel.api, context, kernel.op.name));
      return nullptr;
    } catch (const Failed& failed) {
      return failed.status;
    } catch (const std::invalid_argument& error) {
      return kernel.api.CreateStatus(kInvalidArgument, error.what());
    } catch (const std::exception& error) {
      return kernel.api.CreateStatus(kFail, (std::string("mmsparx::") + kernel.op.name + ": " + error.what()).c_str());
    }
  }
};

// The domain lives as long as the process, since the sessions that use it may.
Status* add_domain(const Api& api, SessionOptions* options) {
  static const Operator operators[] = {{"SS2DScan", 6, cross_scan}, {"SelectiveScan", 7, sequence_scan}};
  static std::mutex mutex;
  static Domain* domain = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!domain) {
    Domain* made = nullptr;
    Status* status = api.CreateCustomOpDomain("mmsparx", &made);
    for (const Operator& op : operators) {
      if (!status) status = api.CustomOpDomain_Add(made, &op);
    }
    if (status) {
      if (made) api.ReleaseCustomOpDomain(made);
      return status;
    }
    domain = made;
  }
  return api.AddCustomOpDomain(options, domain);
}

// Reads the environment variable that also chooses the instruction set of torch's operators (mmsparx/ops/native.py).
void choose_by_environment() {
  constexpr char kVariable[] = "MMSPARX_CPU_INSTRUCTION_SET";
  const char* const asked = std::getenv(kVariable);
  choose_instruction_set(instruction_sets().front());
  if (asked && *asked && !choose_instruction_set(asked)) {
    std::fprintf(stderr,
                 "mmsparx: unknown instruction set '%s', asked for by the environment variable %s; using '%s'\n", asked,
                 kVariable, instruction_set_name());
  }
}

}  // namespace
}  // namespace mmsparx::ort

#define MMSPARX_EXPORT extern "C" __attribute__((visibility("default")))

// The entry point that onnxruntime looks up by its name.
MMSPARX_EXPORT mmsparx::ort::Status* RegisterCustomOps(mmsparx::ort::SessionOptions* options,
                                                       const mmsparx::ort::ApiBase* base) {
  namespace ort = mmsparx::ort;
  const std::string version = base->GetVersionString();
  int minor = 0;
  const bool older = std::sscanf(version.c_str(), "1.%d.", &minor) == 1 && minor < ort::kOldestApi;
  const ort::Api* const api = older ? nullptr : base->GetApi(ort::kOldestApi);
  if (!api) {
    const std::string message = "mmsparx: expected onnxruntime 1.17 or a later 1.*, got " + version +
                                "; install another, or run the file without this library";
    return base->GetApi(1)->CreateStatus(ort::kFail, message.c_str());
  }
  ort::choose_by_environment();
  return ort::add_domain(*api, options);
}

// The name of the instruction set that scans run with.
MMSPARX_EXPORT const char* mmsparx_instruction_set() { return mmsparx::instruction_set_name(); }

// What runs on the GPU and for how long: a library that CUDA loads into a program, whatever it is.
//   CUDA_INJECTION64_PATH=build/libkernel_times.so KERNEL_TIMES=times.txt peal bench train
//   job.textproto
// At its end the program leaves KERNEL_TIMES (default: kernel_times.txt): of the last half of what
// ran the share of time in which anything did, and each kernel's share. Needs CUPTI where the
// loader looks.
#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

constexpr std::size_t kBufferBytes = 8 << 20, kBufferAlignment = 8;
constexpr int kLines = 60;
constexpr std::size_t kMostName = 120;

struct Span {
  std::uint64_t begin, end;  // ns
  std::string name;
};

struct Spans {
  std::mutex mutex;
  std::vector<Span> all;
};

// Never freed: CUPTI may call to the very end.
Spans& spans() {
  static Spans& kept = *new Spans;
  return kept;
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kBufferAlignment, kBufferBytes));
  *size = kBufferBytes;
  *most_records = 0;
}

// All kinds begin with what is read here, in every version of the record.
void keep(const CUpti_Activity& record) {
  std::vector<Span>& all = spans().all;
  if (record.kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    const auto& kernel = reinterpret_cast<const CUpti_ActivityKernel4&>(record);
    all.push_back({kernel.start, kernel.end, kernel.name});
  } else if (record.kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const auto& copy = reinterpret_cast<const CUpti_ActivityMemcpy&>(record);
    all.push_back({copy.start, copy.end, "copy"});
  } else if (record.kind == CUPTI_ACTIVITY_KIND_MEMSET) {
    const auto& set = reinterpret_cast<const CUpti_ActivityMemset&>(record);
    all.push_back({set.start, set.end, "set"});
  }
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t,
                          std::size_t valid) {
  const std::lock_guard lock(spans().mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) keep(*record);
  std::free(buffer);
}

std::string readable(const std::string& name) {
  int status = 0;
  char* const plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  std::string text = status == 0 ? plain : name;
  std::free(plain);
  return text.substr(0, kMostName);
}

void write_table(std::FILE* file, const std::vector<Span>& all) {
  struct Sum {
    std::uint64_t time = 0, count = 0;
  };
  std::map<std::string, Sum> sums;
  std::uint64_t busy = 0, total = 0, end = all.front().begin;
  for (const Span& span : all) {
    Sum& sum = sums[span.name];
    sum.time += span.end - span.begin;
    ++sum.count;
    total += span.end - span.begin;
    busy += std::max(span.end, end) - std::max(span.begin, end);
    end = std::max(span.end, end);
  }
  const auto window = static_cast<double>(end - all.front().begin);
  std::fprintf(file, "the GPU worked %.2f%% of %.2f ms\n", 100 * static_cast<double>(busy) / window,
               1e-6 * window);
  std::vector<std::pair<std::string, Sum>> order(sums.begin(), sums.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second.time > b.second.time; });
  if (order.size() > kLines) order.resize(kLines);
  for (const auto& [name, sum] : order) {
    const auto time = static_cast<double>(sum.time);
    std::fprintf(file, "%5.1f%% %10.3f ms %7llu x %9.2f us  %s\n",
                 100 * time / static_cast<double>(total), 1e-6 * time,
                 static_cast<unsigned long long>(sum.count),
                 1e-3 * time / static_cast<double>(sum.count), readable(name).c_str());
  }
}

void report() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(spans().mutex);
  std::vector<Span>& all = spans().all;
  std::sort(all.begin(), all.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2));
  const char* const path = std::getenv("KERNEL_TIMES");
  std::FILE* const file = std::fopen(path != nullptr ? path : "kernel_times.txt", "w");
  if (file == nullptr) return std::perror("kernel_times");
  if (all.empty()) {
    std::fputs("nothing ran on a GPU\n", file);
  } else {
    write_table(file, all);
  }
  std::fclose(file);
}

}  // namespace

// CUDA calls it once, when it is initialised.
extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
  for (const CUpti_ActivityKind kind : {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                        CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET}) {
    if (cuptiActivityEnable(kind) != CUPTI_SUCCESS)
      std::fputs("kernel_times: CUPTI says no\n", stderr);
  }
  std::atexit(report);
  return 1;
}

#include "comm/c_api.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "comm/buckets.h"
#include "core/base/error.h"

struct peal_buffer {
  peal::Buffer memory;
};

struct peal_buckets {
  std::unique_ptr<peal::GradientBuckets> buckets;
  peal_comm* comm;
};

namespace peal::c_api {
namespace {

static_assert(PEAL_FAST == static_cast<int>(Reduction::fast));

thread_local std::array<char, 2048> last_error{};

void remember(const char* text) noexcept {
  const std::size_t bytes = std::min(std::strlen(text), last_error.size() - 1);
  std::memcpy(last_error.data(), text, bytes);
  last_error[bytes] = '\0';
}

peal_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::input:
      return PEAL_ERROR_INPUT;
    case ErrorKind::peer:
      return PEAL_ERROR_PEER;
    case ErrorKind::numeric:
      return PEAL_ERROR_NUMERIC;
    case ErrorKind::internal:
      break;
  }
  return PEAL_ERROR_INTERNAL;
}

GradientBuckets& buckets_of(const peal_buckets* buckets) {
  require(buckets, "buckets");
  return *buckets->buckets;
}

template <typename What>
peal_status copy_out(char* text, std::size_t bytes, const What& what) {
  return guarded([&] {
    const std::string from = what();
    require(text, "text");
    if (bytes == 0) fail_input("bytes", "0; at least 1 is needed");
    const std::size_t length = std::min(from.size(), bytes - 1);
    std::memcpy(text, from.data(), length);
    text[length] = '\0';
  });
}

int number_of(const peal_comm* comm, int (Communicator::*get)() const) {
  int number = -1;
  guarded([&] { number = (comm_of(comm).*get)(); });
  return number;
}

}  // namespace

Communicator& comm_of(const peal_comm* comm) {
  require(comm, "comm");
  return *comm->comm;
}

Stream& stream_of(peal_comm* comm) {
  require(comm, "comm");
  return comm->stream;
}

peal_status caught() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    remember(error.what());
    return status_of(error.kind());
  } catch (const std::exception& error) {
    remember(error.what());
  } catch (...) {
    remember("unknown exception");
  }
  return PEAL_ERROR_INTERNAL;
}

void require(const void* argument, const char* name) {
  if (argument == nullptr) fail_input(name, "is NULL");
}

HostOptions host_options(const peal_comm_options* options) {
  const peal_comm_options read =
      read_options<peal_comm_options>(options, PEAL_COMM_OPTIONS, "peal_comm_options");
  HostOptions result;
  result.shared_memory = read.shared_memory != 0;
  result.deadline_seconds = read.deadline_seconds;
  if (read.tune_file != nullptr) result.tune_file = read.tune_file;
  return result;
}

peal_comm* handle_of(std::unique_ptr<Communicator> comm, const Device& device) {
  if (!comm) return nullptr;
  Communicator* pointer = comm.get();
  return new peal_comm{std::move(comm), pointer, Stream::borrow(nullptr, device)};
}

}  // namespace peal::c_api

using namespace peal;  // the names below are C's
using namespace peal::c_api;

const char* peal_version(void) {
  return PEAL_VERSION;
}

const char* peal_last_error(void) {
  return last_error.data();
}

peal_status peal_comm_create_single(peal_comm** out) {
  return guarded([&] {
    require(out, "out");
    *out = handle_of(make_single_communicator());
  });
}

peal_status peal_run_local_ranks(int ranks, peal_status (*run)(peal_comm*, void*), void* context) {
  peal_status first = PEAL_OK;
  const peal_status status = guarded([&] {
    if (run == nullptr) fail_input("run", "is NULL");
    std::mutex mutex;
    std::string why;
    run_local_ranks(ranks, [&](Communicator& comm) {
      peal_comm handle{nullptr, &comm, Stream()};
      last_error[0] = '\0';
      const peal_status result = run(&handle, context);
      if (result == PEAL_OK) return;
      {
        const std::lock_guard lock(mutex);
        if (first == PEAL_OK) {
          first = result;
          why = last_error.data();
        }
      }
      comm.abort(last_error.data(), result);
    });
    if (first != PEAL_OK) remember(why.c_str());
  });
  return status != PEAL_OK ? status : first;
}

void peal_comm_free(peal_comm* comm) {
  guarded([&] { delete comm; });
}

peal_status peal_split(peal_comm* comm, int colour, int key, peal_comm** out) {
  return guarded([&] {
    require(out, "out");
    auto group = comm_of(comm).split(colour, key);
    *out = handle_of(std::move(group), comm->stream.device());
  });
}

peal_status peal_make_group(peal_comm* comm, const int* ranks, int count, peal_comm** out) {
  return guarded([&] {
    Communicator& parent = comm_of(comm);
    require(ranks, "ranks");
    require(out, "out");
    if (count < 0) fail_input("count", count, "; 1 or more is needed");
    auto group = parent.make_group({ranks, static_cast<std::size_t>(count)});
    *out = handle_of(std::move(group), comm->stream.device());
  });
}

int peal_rank(const peal_comm* comm) {
  return number_of(comm, &Communicator::rank);
}

int peal_world_size(const peal_comm* comm) {
  return number_of(comm, &Communicator::world_size);
}

int peal_local_rank(const peal_comm* comm) {
  return number_of(comm, &Communicator::local_rank);
}

int peal_local_size(const peal_comm* comm) {
  return number_of(comm, &Communicator::local_size);
}

peal_status peal_backend(const peal_comm* comm, char* text, size_t bytes) {
  return copy_out(text, bytes, [&] { return std::string(comm_of(comm).backend()); });
}

peal_status peal_rank_name(const peal_comm* comm, int rank, char* text, size_t bytes) {
  return copy_out(text, bytes, [&] { return comm_of(comm).rank_name(rank); });
}

peal_status peal_set_deadline(peal_comm* comm, double seconds) {
  return guarded([&] {
    if (!(seconds > 0)) fail_input("deadline", seconds, " s; more than 0 is needed");
    comm_of(comm).set_deadline(seconds);
  });
}

peal_status peal_set_step(peal_comm* comm, int64_t step) {
  return guarded([&] { comm_of(comm).set_step(step); });
}

peal_status peal_set_flight_directory(peal_comm* comm, const char* directory) {
  return guarded([&] {
    require(directory, "directory");
    comm_of(comm).set_flight_directory(directory);
  });
}

peal_status peal_abort(peal_comm* comm, const char* cause, int exit_code) {
  return guarded([&] {
    require(cause, "cause");
    comm_of(comm).abort(cause, exit_code);
  });
}

peal_status peal_allocate(peal_comm* comm, size_t bytes, peal_buffer** out) {
  return guarded([&] {
    require(out, "out");
    *out = new peal_buffer{comm_of(comm).allocate(bytes)};
  });
}

void* peal_buffer_data(const peal_buffer* buffer) {
  void* data = nullptr;
  guarded([&] {
    require(buffer, "buffer");
    data = buffer->memory.data();
  });
  return data;
}

void peal_buffer_free(peal_buffer* buffer) {
  guarded([&] { delete buffer; });
}

peal_status peal_wait(peal_comm* comm, peal_request request) {
  return guarded([&] { comm_of(comm).wait(stream_of(comm), Request(request)); });
}

peal_status peal_test(peal_comm* comm, peal_request request, int* done) {
  return guarded([&] {
    require(done, "done");
    *done = comm_of(comm).done(Request(request)) ? 1 : 0;
  });
}

peal_status peal_agree(peal_comm* comm, const char* const* names, const char* const* values,
                       int count) {
  return guarded([&] {
    Communicator& c = comm_of(comm);
    require(names, "names");
    require(values, "values");
    std::vector<Fact> facts;
    for (int i = 0; i < count; ++i) {
      require(names[i], "names[i]");
      require(values[i], "values[i]");
      facts.push_back({names[i], values[i]});
    }
    agree(c, facts);
  });
}

peal_status peal_tree_block(int virtual_ranks, int ranks, int rank, int* begin, int* end) {
  return guarded([&] {
    require(begin, "begin");
    require(end, "end");
    const TreeNode block = block_of(virtual_ranks, ranks, rank);
    *begin = block.begin;
    *end = block.end;
  });
}

peal_status peal_tree_nodes(int virtual_ranks, int ranks, int rank, int* pairs, int room,
                            int* count) {
  return guarded([&] {
    require(count, "count");
    const auto nodes = maximal_nodes(virtual_ranks, block_of(virtual_ranks, ranks, rank));
    if (room > 0) require(pairs, "pairs");
    for (int i = 0; i < std::min(room, static_cast<int>(nodes.size())); ++i) {
      pairs[2 * i] = nodes[static_cast<std::size_t>(i)].begin;
      pairs[2 * i + 1] = nodes[static_cast<std::size_t>(i)].end;
    }
    *count = static_cast<int>(nodes.size());
  });
}

peal_status peal_buckets_create(peal_comm* comm, size_t arena_bytes,
                                const peal_bucket_options* options, peal_buckets** out) {
  return guarded([&] {
    Communicator& c = comm_of(comm);
    require(out, "out");
    const peal_bucket_options read =
        read_options<peal_bucket_options>(options, PEAL_BUCKET_OPTIONS, "peal_bucket_options");
    const BucketOptions wanted{
        read.bucket_bytes,
        checked(read.reduction, Reduction::fast, "reduction"),
        read.virtual_ranks,
        {.kind = checked(read.compression, Compression::Kind::int8, "compression"),
         .wire = {checked(read.wire, DType::boolean, "wire"), read.wire_scale},
         .block = read.int8_block,
         .exact_bytes = read.exact_bytes}};
    auto buckets = std::make_unique<GradientBuckets>(c, arena_bytes, wanted);
    *out = new peal_buckets{std::move(buckets), comm};
  });
}

void peal_buckets_free(peal_buckets* buckets) {
  guarded([&] { delete buckets; });
}

peal_status peal_buckets_partials(const peal_buckets* buckets, int* count) {
  return guarded([&] {
    require(count, "count");
    *count = buckets_of(buckets).partials();
  });
}

peal_status peal_buckets_partial(peal_buckets* buckets, int index, void** data) {
  return guarded([&] {
    require(data, "data");
    GradientBuckets& b = buckets_of(buckets);
    if (index < 0 || index >= b.partials()) {
      fail_input("index", index, " is not in 0..", b.partials() - 1);
    }
    *data = b.partial(index);
  });
}

peal_status peal_buckets_add_nodes(peal_buckets* buckets, const void* from, void* into,
                                   size_t begin, size_t end) {
  return guarded([&] {
    require(from, "from");
    require(into, "into");
    buckets_of(buckets).add_nodes(static_cast<const std::byte*>(from),
                                  static_cast<std::byte*>(into), begin, end);
  });
}

peal_status peal_buckets_error(peal_buckets* buckets, void** data) {
  return guarded([&] {
    require(data, "data");
    *data = buckets_of(buckets).error();
  });
}

peal_status peal_buckets_ready(peal_buckets* buckets, size_t bytes_final) {
  return guarded([&] {
    GradientBuckets& b = buckets_of(buckets);
    b.ready(buckets->comm->stream, bytes_final);
  });
}

peal_status peal_buckets_ready_slice(peal_buckets* buckets, size_t begin, size_t end) {
  return guarded([&] {
    GradientBuckets& b = buckets_of(buckets);
    b.ready(buckets->comm->stream, begin, end);
  });
}

peal_status peal_buckets_finish(peal_buckets* buckets, void (*on_bucket)(size_t, size_t, void*),
                                void* context) {
  return guarded([&] {
    GradientBuckets& b = buckets_of(buckets);
    Stream& s = buckets->comm->stream;
    if (on_bucket == nullptr) return b.finish(s);
    b.finish(s, [&](std::size_t begin, std::size_t end) { on_bucket(begin, end, context); });
  });
}

peal_status peal_buckets_count(const peal_buckets* buckets, size_t* count) {
  return guarded([&] {
    require(count, "count");
    *count = buckets_of(buckets).bucket_count();
  });
}

peal_status peal_buckets_seconds_waited(const peal_buckets* buckets, double* seconds) {
  return guarded([&] {
    require(seconds, "seconds");
    *seconds = buckets_of(buckets).seconds_waited();
  });
}

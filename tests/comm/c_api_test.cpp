// The C API: results, and wrong arguments that must come back as a status with words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/peal.h"
#include "tests/comm/c_ranks.h"
#include "tests/comm/late.h"

namespace {

using ::peal::on_ranks;
using ::testing::HasSubstr;

struct Freed {
  void operator()(peal_comm* comm) const { peal_comm_free(comm); }
  void operator()(peal_buffer* buffer) const { peal_buffer_free(buffer); }
  void operator()(peal_buckets* buckets) const { peal_buckets_free(buckets); }
};
template <typename Handle>
using Owned = std::unique_ptr<Handle, Freed>;

Owned<peal_comm> single() {
  peal_comm* comm = nullptr;
  EXPECT_EQ(peal_comm_create_single(&comm), PEAL_OK);
  return Owned<peal_comm>(comm);
}

void expect_refused(peal_status status, const std::string& text,
                    peal_status wanted = PEAL_ERROR_INPUT) {
  EXPECT_EQ(status, wanted);
  EXPECT_THAT(peal_last_error(), HasSubstr(text));
}

class CApi : public ::testing::TestWithParam<int> {};

TEST_P(CApi, Collectives) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* comm) {
    const int r = peal_rank(comm);
    EXPECT_EQ(peal_world_size(comm), n);
    EXPECT_EQ(peal_local_size(comm), n);
    EXPECT_EQ(peal_local_rank(comm), r);
    std::vector<float> x(100, static_cast<float>(r + 1)), y(100);
    peal_request request = 0;
    EXPECT_EQ(peal_all_reduce(comm, "sum", x.data(), y.data(), 100, PEAL_F32, PEAL_SUM,
                              PEAL_ORDERED_TREE, &request),
              PEAL_OK);
    EXPECT_EQ(peal_wait(comm, request), PEAL_OK);
    EXPECT_EQ(y[99], static_cast<float>(n * (n + 1) / 2));
    EXPECT_EQ(peal_all_reduce(comm, "max", x.data(), x.data(), 100, PEAL_F32, PEAL_MAX,
                              PEAL_AUTOMATIC, nullptr),
              PEAL_OK);
    EXPECT_EQ(x[0], static_cast<float>(n));

    std::vector<std::int64_t> rows(static_cast<std::size_t>(3 * n)), row(3, r);
    EXPECT_EQ(peal_all_gather(comm, "rows", row.data(), rows.data(), 3, PEAL_I64, nullptr),
              PEAL_OK);
    for (int i = 0; i < 3 * n; ++i) EXPECT_EQ(rows[static_cast<std::size_t>(i)], i / 3);
    EXPECT_EQ(
        peal_reduce_scatter(comm, "back", rows.data(), row.data(), 3, PEAL_I64, PEAL_SUM, nullptr),
        PEAL_OK);
    EXPECT_EQ(row[2], r * n);
    std::int32_t word = r == n - 1 ? 42 : 0;
    EXPECT_EQ(peal_broadcast(comm, "word", &word, 1, PEAL_I32, n - 1, nullptr), PEAL_OK);
    EXPECT_EQ(word, 42);
    EXPECT_EQ(peal_barrier(comm, "all", &request), PEAL_OK);
    for (int done = 0; done == 0;) {
      const peal_status polled = peal_test(comm, request, &done);
      if (polled != PEAL_OK) return polled;
    }
    return PEAL_OK;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

// Rank r's block for rank p holds 10 r + p; with counts, p + 1 elements of it.
TEST_P(CApi, BlocksOfEqualAndOfDifferentSizes) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* comm) {
    const int r = peal_rank(comm), root = n - 1;
    std::vector<std::int32_t> x, y(static_cast<std::size_t>(n)), ragged;
    std::vector<std::int64_t> counts, all_mine(static_cast<std::size_t>(n), r + 1);
    for (int p = 0; p < n; ++p) {
      x.push_back(10 * r + p);
      counts.push_back(p + 1);
      ragged.insert(ragged.end(), static_cast<std::size_t>(p + 1), 10 * r + p);
    }
    EXPECT_EQ(peal_all_to_all(comm, "turn", x.data(), y.data(), 1, PEAL_I32, nullptr), PEAL_OK);
    for (int p = 0; p < n; ++p) EXPECT_EQ(y[static_cast<std::size_t>(p)], 10 * p + r);
    std::vector<std::int32_t> in(static_cast<std::size_t>(n * (r + 1)));
    EXPECT_EQ(peal_all_to_all_v(comm, "turn", ragged.data(), in.data(), counts.data(),
                                all_mine.data(), PEAL_I32, nullptr),
              PEAL_OK);
    for (int i = 0; i < n * (r + 1); ++i) {
      EXPECT_EQ(in[static_cast<std::size_t>(i)], 10 * (i / (r + 1)) + r);
    }

    const std::vector<std::int32_t> part(static_cast<std::size_t>(r + 1), r);
    std::vector<std::int32_t> whole(ragged.size()), back(part.size()), sum(part.size());
    EXPECT_EQ(
        peal_all_gather_v(comm, "v", part.data(), whole.data(), counts.data(), PEAL_I32, nullptr),
        PEAL_OK);
    EXPECT_EQ(peal_reduce_scatter_v(comm, "v", whole.data(), sum.data(), counts.data(), PEAL_I32,
                                    PEAL_SUM, nullptr),
              PEAL_OK);
    for (const std::int32_t value : sum) EXPECT_EQ(value, n * r);
    const std::vector<float> ones(ragged.size(), 1);
    std::vector<float> total(part.size());
    const void* partial = ones.data();
    EXPECT_EQ(
        peal_reduce_scatter_tree(comm, "t", n, &partial, 1, total.data(), counts.data(), nullptr),
        PEAL_OK);
    for (const float value : total) EXPECT_EQ(value, n);
    whole.assign(whole.size(), -1);
    EXPECT_EQ(
        peal_gather_v(comm, "v", part.data(), whole.data(), counts.data(), PEAL_I32, root, nullptr),
        PEAL_OK);
    EXPECT_EQ(whole.back(), r == root ? n - 1 : -1);
    EXPECT_EQ(peal_scatter_v(comm, "v", whole.data(), back.data(), counts.data(), PEAL_I32, root,
                             nullptr),
              PEAL_OK);
    EXPECT_EQ(back, part);
    return PEAL_OK;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

TEST_P(CApi, RootsPairsAndFusedTensors) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* comm) {
    const int r = peal_rank(comm), root = n - 1;
    double mine = r + 1, total = 0, one = 0;
    std::vector<double> all(static_cast<std::size_t>(n));
    EXPECT_EQ(peal_reduce(comm, "sum", &mine, &total, 1, PEAL_F64, PEAL_SUM, root, nullptr),
              PEAL_OK);
    EXPECT_EQ(total, r == root ? n * (n + 1) / 2 : 0);
    EXPECT_EQ(peal_gather(comm, "all", &mine, all.data(), 1, PEAL_F64, root, nullptr), PEAL_OK);
    EXPECT_EQ(all[0], r == root ? 1 : 0);
    EXPECT_EQ(peal_scatter(comm, "all", all.data(), &one, 1, PEAL_F64, root, nullptr), PEAL_OK);
    EXPECT_EQ(one, mine);

    std::vector<float> a(3, static_cast<float>(r)), b(5, 1);
    const void* xs[] = {a.data(), b.data()};
    void* ys[] = {a.data(), b.data()};
    const std::int64_t counts[] = {3, 5};
    EXPECT_EQ(peal_all_reduce_group(comm, "two", xs, ys, counts, 2, PEAL_F32, PEAL_SUM, nullptr),
              PEAL_OK);
    EXPECT_EQ(a[2], static_cast<float>(n * (n - 1) / 2));
    EXPECT_EQ(b[4], static_cast<float>(n));

    std::uint8_t word = r == 0 ? 7 : 0;
    if (n > 1 && r == 0) {
      EXPECT_EQ(peal_send(comm, "word", &word, 1, PEAL_U8, root, nullptr), PEAL_OK);
    }
    if (n > 1 && r == root) {
      EXPECT_EQ(peal_recv(comm, "word", &word, 1, PEAL_U8, 0, nullptr), PEAL_OK);
      EXPECT_EQ(word, 7);
    }
    EXPECT_EQ(peal_set_flight_directory(comm, ""), PEAL_OK);
    return PEAL_OK;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

TEST_P(CApi, GroupsAndSharedMemory) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* comm) {
    const int r = peal_rank(comm);
    peal_comm* raw = nullptr;
    EXPECT_EQ(peal_split(comm, r % 2 == 0 ? 0 : PEAL_NO_GROUP, -r, &raw), PEAL_OK);
    const Owned<peal_comm> even(raw);
    EXPECT_EQ(even == nullptr, r % 2 == 1);
    EXPECT_EQ(peal_rank(even.get()), r % 2 == 1 ? -1 : (n - 1) / 2 - r / 2);
    const int first[] = {0};
    EXPECT_EQ(peal_make_group(comm, first, 1, &raw), PEAL_OK);
    const Owned<peal_comm> alone(raw);
    EXPECT_EQ(alone != nullptr, r == 0);

    peal_buffer* memory = nullptr;
    EXPECT_EQ(peal_allocate(comm, 40, &memory), PEAL_OK);
    const Owned<peal_buffer> buffer(memory);
    auto* data = static_cast<float*>(peal_buffer_data(memory));
    for (int i = 0; i < 10; ++i) data[i] = static_cast<float>(i);
    EXPECT_EQ(
        peal_all_reduce(comm, "shared", data, data, 10, PEAL_F32, PEAL_MEAN, PEAL_RING, nullptr),
        PEAL_OK);
    EXPECT_EQ(data[9], 9.0f);
    return PEAL_OK;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

// 8 virtual ranks bring 1, 2, 4, ... 128: the total is 255 whoever runs them.
TEST_P(CApi, RankInvariantBuckets) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* comm) {
    peal_bucket_options options = PEAL_BUCKET_OPTIONS;
    options.reduction = PEAL_RANK_INVARIANT;
    options.virtual_ranks = 8;
    options.bucket_bytes = 256;
    peal_buckets* raw = nullptr;
    EXPECT_EQ(peal_buckets_create(comm, 4000, &options, &raw), PEAL_OK);
    const Owned<peal_buckets> buckets(raw);
    int partials = 0, nodes = 0, pairs[16] = {};
    EXPECT_EQ(peal_buckets_partials(raw, &partials), PEAL_OK);
    EXPECT_EQ(peal_tree_nodes(8, n, peal_rank(comm), pairs, 8, &nodes), PEAL_OK);
    EXPECT_EQ(partials, nodes);
    for (int p = 0; p < partials; ++p) {
      void* data = nullptr;
      EXPECT_EQ(peal_buckets_partial(raw, p, &data), PEAL_OK);
      const auto sum = static_cast<float>((1 << pairs[2 * p + 1]) - (1 << pairs[2 * p]));
      std::fill_n(static_cast<float*>(data), 1000, sum);
    }
    for (std::size_t at = 0; at <= 4000; at += 400) EXPECT_EQ(peal_buckets_ready(raw, at), PEAL_OK);
    std::size_t seen = 0, count = 0;
    const auto on_bucket = [](std::size_t, std::size_t, void* context) {
      ++*static_cast<std::size_t*>(context);
    };
    const peal_status finished = peal_buckets_finish(raw, on_bucket, &seen);
    if (finished != PEAL_OK) return finished;
    EXPECT_EQ(peal_buckets_count(raw, &count), PEAL_OK);
    EXPECT_GT(count, 10u);
    EXPECT_EQ(seen, count);
    double seconds = -1;
    EXPECT_EQ(peal_buckets_seconds_waited(raw, &seconds), PEAL_OK);
    EXPECT_GE(seconds, 0);
    void* total = nullptr;
    EXPECT_EQ(peal_buckets_partial(raw, 0, &total), PEAL_OK);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(static_cast<float*>(total)[i], 255.0f);
    return PEAL_OK;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

// 257 is no bf16: it travels as 256, but for the first 16 values.
TEST_P(CApi, CompressedBuckets) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* comm) {
    peal_bucket_options options = PEAL_BUCKET_OPTIONS;
    options.compression = PEAL_COMPRESSION_HALF;
    options.exact_bytes = 64;
    peal_buckets* raw = nullptr;
    EXPECT_EQ(peal_buckets_create(comm, 4000, &options, &raw), PEAL_OK);
    const Owned<peal_buckets> half(raw);
    void *data = nullptr, *error = nullptr;
    EXPECT_EQ(peal_buckets_partial(raw, 0, &data), PEAL_OK);
    EXPECT_EQ(peal_buckets_error(raw, &error), PEAL_OK);
    EXPECT_EQ(error, nullptr);
    auto* x = static_cast<float*>(data);
    std::fill_n(x, 1000, 257.0f);
    EXPECT_EQ(peal_buckets_ready(raw, 4000), PEAL_OK);
    const peal_status finished = peal_buckets_finish(raw, nullptr, nullptr);
    if (finished != PEAL_OK) return finished;
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(x[i], static_cast<float>(n) * (i < 16 ? 257 : 256));

    options.compression = PEAL_COMPRESSION_INT8;
    EXPECT_EQ(peal_buckets_create(comm, 4000, &options, &raw), PEAL_OK);
    const Owned<peal_buckets> int8(raw);
    EXPECT_EQ(peal_buckets_error(raw, &error), PEAL_OK);
    EXPECT_NE(error, nullptr);
    return PEAL_OK;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

TEST(CApiBuckets, AddNodesRoundsWhatTravelsSo) {
  peal_comm* comm = nullptr;
  ASSERT_EQ(peal_comm_create_single(&comm), PEAL_OK);
  peal_bucket_options options = PEAL_BUCKET_OPTIONS;
  options.reduction = PEAL_RANK_INVARIANT;
  options.compression = PEAL_COMPRESSION_HALF;
  options.exact_bytes = 64;
  peal_buckets* buckets = nullptr;
  ASSERT_EQ(peal_buckets_create(comm, 128, &options, &buckets), PEAL_OK);
  std::vector<float> x(32, 256), y(32, 1);
  EXPECT_EQ(peal_buckets_add_nodes(buckets, y.data(), x.data(), 0, 128), PEAL_OK);
  EXPECT_EQ(x[15], 257);
  EXPECT_EQ(x[16], 256);
  EXPECT_EQ(peal_buckets_add_nodes(buckets, nullptr, x.data(), 0, 4), PEAL_ERROR_INPUT);
  peal_buckets_free(buckets);
  options.reduction = PEAL_RANK_INVARIANT;
  options.compression = PEAL_COMPRESSION_INT8;
  EXPECT_EQ(peal_buckets_create(comm, 128, &options, &buckets), PEAL_ERROR_INPUT);
  EXPECT_NE(std::string(peal_last_error()).find("int8 depends on the number of ranks"),
            std::string::npos);
  peal_comm_free(comm);
}

INSTANTIATE_TEST_SUITE_P(Ranks, CApi, ::testing::Values(1, 2, 3));

TEST(CApiErrors, NullIsRefused) {
  const auto comm = single();
  float x = 0;
  expect_refused(peal_comm_create_single(nullptr), "out: is NULL");
  expect_refused(peal_barrier(nullptr, "b", nullptr), "comm: is NULL");
  expect_refused(peal_barrier(comm.get(), nullptr, nullptr), "name: is NULL");
  expect_refused(peal_wait(nullptr, 0), "comm: is NULL");
  expect_refused(peal_test(comm.get(), 0, nullptr), "done: is NULL");
  expect_refused(peal_split(comm.get(), 0, 0, nullptr), "out: is NULL");
  expect_refused(peal_make_group(comm.get(), nullptr, 1, nullptr), "ranks: is NULL");
  expect_refused(peal_allocate(comm.get(), 1, nullptr), "out: is NULL");
  expect_refused(peal_abort(comm.get(), nullptr, 1), "cause: is NULL");
  expect_refused(peal_agree(comm.get(), nullptr, nullptr, 1), "names: is NULL");
  expect_refused(peal_buckets_ready(nullptr, 0), "buckets: is NULL");
  expect_refused(peal_buckets_create(comm.get(), 4, nullptr, nullptr), "out: is NULL");
  expect_refused(peal_run_local_ranks(1, nullptr, nullptr), "run: is NULL");
  expect_refused(peal_all_reduce_tree(comm.get(), "t", 1, nullptr, 1, &x, 1, nullptr),
                 "partials: is NULL");
  expect_refused(peal_all_reduce(comm.get(), "loss", nullptr, &x, 1, PEAL_F32, PEAL_SUM,
                                 PEAL_AUTOMATIC, nullptr),
                 "all_reduce \"loss\": x has no memory");
  EXPECT_EQ(peal_rank(nullptr), -1);
  EXPECT_THAT(peal_last_error(), HasSubstr("comm: is NULL"));
  EXPECT_EQ(peal_buffer_data(nullptr), nullptr);
  peal_comm_free(nullptr);
  peal_buffer_free(nullptr);
  peal_buckets_free(nullptr);
}

TEST(CApiErrors, CountsAndTensorsAreChecked) {
  const Owned<peal_comm> comm = single();
  float x = 0, y = 0;
  const std::int64_t negative = -1;
  expect_refused(peal_all_gather_v(comm.get(), "v", &x, &y, nullptr, PEAL_F32, nullptr), "counts");
  expect_refused(peal_all_gather_v(comm.get(), "v", &x, &y, &negative, PEAL_F32, nullptr), "count");
  expect_refused(peal_all_to_all_v(comm.get(), "v", &x, &y, nullptr, &negative, PEAL_F32, nullptr),
                 "send_counts");
  expect_refused(peal_gather(comm.get(), "g", &x, &y, 1, PEAL_F32, 3, nullptr), "root 3");
  expect_refused(peal_send(comm.get(), "s", &x, 1, PEAL_F32, 1, nullptr), "rank 1");
  const void* xs[] = {&x};
  void* ys[] = {&y};
  expect_refused(
      peal_all_reduce_group(comm.get(), "g", xs, ys, nullptr, 1, PEAL_F32, PEAL_SUM, nullptr),
      "counts");
  expect_refused(
      peal_all_reduce_group(comm.get(), "g", xs, ys, &negative, -2, PEAL_F32, PEAL_SUM, nullptr),
      "-2");
  expect_refused(peal_set_flight_directory(comm.get(), nullptr), "directory");
}

TEST(CApiErrors, ValuesOutOfRangeAreRefused) {
  const auto comm = single();
  float x = 0, y = 0;
  const auto all_reduce = [&](std::int64_t count, int dtype, int op, int algorithm) {
    return peal_all_reduce(comm.get(), "loss", &x, &y, count, static_cast<peal_dtype>(dtype),
                           static_cast<peal_op>(op), static_cast<peal_algorithm>(algorithm),
                           nullptr);
  };
  EXPECT_EQ(all_reduce(1, PEAL_F32, PEAL_SUM, PEAL_AUTOMATIC), PEAL_OK);
  expect_refused(all_reduce(-1, PEAL_F32, PEAL_SUM, PEAL_AUTOMATIC), "count: -1");
  expect_refused(all_reduce(1, 9, PEAL_SUM, PEAL_AUTOMATIC), "dtype: 9 is not in 0..8");
  expect_refused(all_reduce(1, PEAL_F32, 5, PEAL_AUTOMATIC), "op: 5 is not in 0..4");
  expect_refused(all_reduce(1, PEAL_F32, -1, PEAL_AUTOMATIC), "op: -1 is not in 0..4");
  expect_refused(all_reduce(1, PEAL_F32, PEAL_SUM, 3), "algorithm: 3 is not in 0..2");
  expect_refused(peal_broadcast(comm.get(), "w", &x, 1, PEAL_F32, 1, nullptr), "root 1");
  expect_refused(peal_set_deadline(comm.get(), 0), "deadline: 0 s");
  expect_refused(peal_run_local_ranks(
                     0, [](peal_comm*, void*) { return PEAL_OK; }, nullptr),
                 "0 ranks");
  char text[8];
  expect_refused(peal_rank_name(comm.get(), 1, text, sizeof text), "rank 1 is not in 0..0");
  expect_refused(peal_backend(comm.get(), text, 0), "bytes: 0");
  EXPECT_EQ(peal_backend(comm.get(), text, 4), PEAL_OK);
  EXPECT_STREQ(text, "sin");
  int block[2];
  expect_refused(peal_tree_block(2, 3, 0, &block[0], &block[1]), "cannot share 2 virtual ranks");
}

TEST(CApiErrors, OptionsAreReadBySize) {
  const auto comm = single();
  peal_buckets* raw = nullptr;
  peal_bucket_options options = PEAL_BUCKET_OPTIONS;
  options.size = sizeof options + 8;
  expect_refused(peal_buckets_create(comm.get(), 4, &options, &raw),
                 "size is 64; this library knows up to 56 bytes");
  options.size = 0;
  expect_refused(peal_buckets_create(comm.get(), 4, &options, &raw), "size is 0");
  options = PEAL_BUCKET_OPTIONS;
  options.reduction = static_cast<peal_reduction>(7);
  expect_refused(peal_buckets_create(comm.get(), 4, &options, &raw), "reduction: 7");
  // A program from before `reduction` was there: what lies behind its struct is not read.
  options.size = offsetof(peal_bucket_options, reduction);
  ASSERT_EQ(peal_buckets_create(comm.get(), 4, &options, &raw), PEAL_OK);
  const Owned<peal_buckets> buckets(raw);
  void* data = nullptr;
  expect_refused(peal_buckets_partial(raw, 1, &data), "index: 1 is not in 0..0");
  expect_refused(peal_buckets_finish(raw, nullptr, nullptr), "finish after 0 of 1 buckets",
                 PEAL_ERROR_INTERNAL);
}

TEST(CApiErrors, EveryRankHearsWhy) {
  std::vector<peal_status> seen(3);
  std::vector<std::string> why(3);
  on_ranks(3, [&](peal_comm* comm) {
    const auto r = static_cast<std::size_t>(peal_rank(comm));
    float x[2] = {};
    seen[r] = peal_all_reduce(comm, "loss", x, x, r == 1 ? 2 : 1, PEAL_F32, PEAL_SUM,
                              PEAL_AUTOMATIC, nullptr);
    why[r] = peal_last_error();
    return PEAL_OK;
  });
  for (std::size_t r = 0; r < 3; ++r) {
    EXPECT_EQ(seen[r], PEAL_ERROR_NUMERIC);
    EXPECT_THAT(why[r], HasSubstr("all_reduce \"loss\" (sum, f32, 2 elements) on rank 1"));
  }
}

TEST(CApiErrors, ARankThatLeavesWithAStatusEndsTheOthers) {
  std::vector<peal_status> seen(2);
  const peal_status status = on_ranks(2, [&](peal_comm* comm) {
    if (peal_rank(comm) == 1) return peal_set_deadline(comm, -5);
    return seen[0] = peal_barrier(comm, "epoch", nullptr);
  });
  EXPECT_NE(seen[0], PEAL_OK);
  expect_refused(status, "deadline: -5 s");
}

TEST(CApiErrors, DeadlinesAndTheAbortOfAPeer) {
  peal::GaveUp other;
  const peal_status late = on_ranks(2, [&](peal_comm* comm) {
    const auto end = other.at_end(peal_rank(comm) == 0);
    peal_set_deadline(comm, peal_rank(comm) == 0 ? 0.2 : 30);
    if (peal_rank(comm) == 1) other.wait();
    return peal_barrier(comm, "epoch", nullptr);
  });
  expect_refused(late, "rank 0: waited 0.2 s in barrier \"epoch\"", PEAL_ERROR_PEER);
  std::vector<std::string> why(2);
  on_ranks(2, [&](peal_comm* comm) {
    if (peal_rank(comm) == 1) return peal_abort(comm, "disk is full", 2);
    EXPECT_EQ(peal_barrier(comm, "epoch", nullptr), PEAL_ERROR_INPUT);
    why[0] = peal_last_error();
    return PEAL_OK;
  });
  EXPECT_THAT(why[0], HasSubstr("disk is full"));
}

TEST(CApiErrors, LastErrorIsOfTheThread) {
  expect_refused(peal_wait(nullptr, 0), "comm: is NULL");
  std::string other = "not run";
  std::thread([&] { other = peal_last_error(); }).join();
  EXPECT_EQ(other, "");
}

TEST(CApiErrors, AgreeNamesTheOddRank) {
  const peal_status status = on_ranks(3, [](peal_comm* comm) {
    const char* names[] = {"learning rate"};
    const char* values[] = {peal_rank(comm) == 2 ? "0.2" : "0.1"};
    return peal_agree(comm, names, values, 1);
  });
  expect_refused(status, "rank 2: learning rate is \"0.2\" but rank 0 has \"0.1\"",
                 PEAL_ERROR_NUMERIC);
  EXPECT_STRNE(peal_version(), "");
}

}  // namespace

// Communicators of device memory through the C API, with the CPU as the device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "comm/peal.h"
#include "tests/comm/c_ranks.h"

namespace {

using ::peal::on_ranks;
using ::testing::HasSubstr;

class CApiDevice : public ::testing::TestWithParam<int> {};

TEST_P(CApiDevice, StagedCallsAndGroups) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* host) {
    peal_device_options options = PEAL_DEVICE_OPTIONS;
    options.chunk_bytes = 4096;  // several of them
    peal_comm *comm = nullptr, *group = nullptr;
    EXPECT_EQ(peal_comm_create_staged(host, PEAL_CPU, &options, &comm), PEAL_OK);
    const int r = peal_rank(comm);
    char backend[16];
    EXPECT_EQ(peal_backend(comm, backend, sizeof backend), PEAL_OK);
    EXPECT_STREQ(backend, "staged");

    peal_buffer* memory = nullptr;
    EXPECT_EQ(peal_allocate(comm, 5000 * sizeof(float), &memory), PEAL_OK);
    auto* x = static_cast<float*>(peal_buffer_data(memory));
    std::fill_n(x, 5000, static_cast<float>(r + 1));
    peal_request request = 0;
    EXPECT_EQ(peal_all_reduce(comm, "x", x, x, 5000, PEAL_F32, PEAL_SUM, PEAL_AUTOMATIC, &request),
              PEAL_OK);
    // The host's communicator goes on beside it.
    std::int64_t ranks = 1;
    EXPECT_EQ(peal_all_reduce(host, "n", &ranks, &ranks, 1, PEAL_I64, PEAL_SUM, PEAL_RING, nullptr),
              PEAL_OK);
    EXPECT_EQ(ranks, n);
    EXPECT_EQ(peal_wait(comm, request), PEAL_OK);
    EXPECT_EQ(x[4999], static_cast<float>(n * (n + 1) / 2));

    EXPECT_EQ(peal_split(comm, 0, -r, &group), PEAL_OK);
    EXPECT_EQ(peal_rank(group), n - 1 - r);
    std::int32_t word = peal_rank(group) == 0 ? 42 : 0;
    EXPECT_EQ(peal_broadcast(group, "word", &word, 1, PEAL_I32, 0, nullptr), PEAL_OK);
    EXPECT_EQ(word, 42);
    peal_buffer_free(memory);
    peal_comm_free(group);
    peal_comm_free(comm);
    return PEAL_OK;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

TEST_P(CApiDevice, Buckets) {
  const int n = GetParam();
  const peal_status status = on_ranks(n, [&](peal_comm* host) {
    peal_comm* comm = nullptr;
    EXPECT_EQ(peal_comm_create_staged(host, PEAL_CPU, nullptr, &comm), PEAL_OK);
    peal_bucket_options options = PEAL_BUCKET_OPTIONS;
    options.bucket_bytes = 256;
    peal_buckets* buckets = nullptr;
    EXPECT_EQ(peal_buckets_create(comm, 4000, &options, &buckets), PEAL_OK);
    void* data = nullptr;
    EXPECT_EQ(peal_buckets_partial(buckets, 0, &data), PEAL_OK);
    std::fill_n(static_cast<float*>(data), 1000, 1.0f);
    EXPECT_EQ(peal_buckets_ready(buckets, 4000), PEAL_OK);
    const peal_status finished = peal_buckets_finish(buckets, nullptr, nullptr);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(static_cast<float*>(data)[i], static_cast<float>(n));
    peal_buckets_free(buckets);
    peal_comm_free(comm);
    return finished;
  });
  EXPECT_EQ(status, PEAL_OK) << peal_last_error();
}

INSTANTIATE_TEST_SUITE_P(Ranks, CApiDevice, ::testing::Values(1, 2, 3));

TEST(CApiDeviceErrors, ADeviceThatIsNotThereIsRefusedOnEveryRank) {
  for (const auto create : {peal_comm_create_staged, peal_comm_create_nccl}) {
    std::vector<peal_status> seen(2);
    std::vector<std::string> why(2);
    const peal_status status = on_ranks(2, [&](peal_comm* host) {
      const auto r = static_cast<std::size_t>(peal_rank(host));
      peal_comm* comm = nullptr;
      seen[r] = create(host, r == 1 ? 9999 : PEAL_CPU, nullptr, &comm);
      why[r] = peal_last_error();
      EXPECT_EQ(comm, nullptr);
      return peal_barrier(host, "still there", nullptr);
    });
    EXPECT_EQ(status, PEAL_OK) << peal_last_error();
    for (std::size_t r = 0; r < 2; ++r) EXPECT_EQ(seen[r], PEAL_ERROR_INPUT) << why[r];
    if (create == peal_comm_create_staged) {
      EXPECT_THAT(why[0], HasSubstr("9999"));
      EXPECT_THAT(why[1], HasSubstr("9999"));
    }
  }
}

TEST(CApiDeviceErrors, WrongArguments) {
  peal_comm *host = nullptr, *comm = nullptr;
  ASSERT_EQ(peal_comm_create_single(&host), PEAL_OK);
  const auto refused = [](peal_status status, const char* text) {
    EXPECT_EQ(status, PEAL_ERROR_INPUT);
    EXPECT_THAT(peal_last_error(), HasSubstr(text));
  };
  refused(peal_comm_create_staged(nullptr, PEAL_CPU, nullptr, &comm), "comm: is NULL");
  refused(peal_comm_create_staged(host, PEAL_CPU, nullptr, nullptr), "out: is NULL");
  refused(peal_comm_create_staged(host, -2, nullptr, &comm), "-2");
  refused(peal_comm_create_nccl(host, PEAL_CPU, nullptr, &comm), "CUDA");
  peal_device_options options = PEAL_DEVICE_OPTIONS;
  options.size = 4096;
  refused(peal_comm_create_staged(host, PEAL_CPU, &options, &comm), "size is 4096");
  refused(peal_set_stream(nullptr, nullptr), "comm: is NULL");
  EXPECT_EQ(peal_set_stream(host, nullptr), PEAL_OK);
  refused(peal_set_stream(host, &options), "on the CPU, which has no streams");
  peal_comm_free(host);
}

}  // namespace

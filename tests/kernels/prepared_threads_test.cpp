// The bits of every prepared kernel: twice on one object, on another thread, and while another
// thread runs another object.
#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <thread>

#include "tests/kernels/prepared_reference.h"

namespace peal {
namespace {

using reference::Owned;
using reference::random_values;

using Bits = std::vector<float>;

Owned random_tensor(const Shape& shape, std::uint64_t seed) {
  return Owned::of(shape, random_values(shape, seed));
}

void append(Bits& all, const Owned& x) {
  const Bits bits = x.bits();
  all.insert(all.end(), bits.begin(), bits.end());
}

// One object of each kind; run() returns everything that it computed.
class Everything {
 public:
  explicit Everything(Kernels& kernels = kernels_under_test()) : kernels_(kernels) {
    conv_spec_.x = {4, 16, 13, 13};
    conv_spec_.w = {32, 16, 3, 3};
    conv_spec_.bias = true;
    fused_spec_.x = {4, 1, 28, 28};
    fused_spec_.w = {32, 1, 3, 3};
    fused_spec_.bias = true;
    fused_spec_.activation = Activation::relu;
    fused_spec_.needs_dx = false;
    fused_pool_.x = fused_spec_.y();
    conv_ = kernels_.make_conv2d(conv_spec_);
    pool_spec_.x = conv_spec_.y();
    pool_spec_.x_layout = conv_->y_layout();
    pool_ = kernels_.make_pool2d(pool_spec_);
    fused_ = kernels_.make_conv_relu_pool(fused_spec_, fused_pool_);
    for (std::size_t form = 0; form < 4; ++form) {
      MatmulSpec spec;
      spec.m = 32;
      spec.n = 128;
      spec.k = 777;
      spec.transpose_a = (form & 1) != 0;
      spec.transpose_b = (form & 2) != 0;
      matmul_[form] = kernels_.make_matmul(spec);
    }
    softmax_ = kernels_.make_softmax(32, 100, false);
    norm_ = kernels_.make_layer_norm(32, 100, 1e-5f);
    recurrent_spec_.steps = 5;
    recurrent_spec_.batch = 16;
    recurrent_spec_.inputs = 24;
    recurrent_spec_.hidden = 40;
    recurrent_spec_.layers = 2;
    recurrent_spec_.bidirectional = recurrent_spec_.lengths = true;
    for (std::size_t cell = 0; cell < recurrent_.size(); ++cell) {
      recurrent_spec_.cell = static_cast<RecurrentCell>(cell);
      recurrent_[cell] = kernels_.make_recurrent(recurrent_spec_);
    }
    attention_ = kernels_.make_attention({.batch = 2, .time = 70, .heads = 3, .width = 48});
    attention_step_ =
        kernels_.make_attention_step({.batch = 2, .context = 70, .heads = 3, .width = 48});
  }

  Bits run() {
    Bits all;
    run_convolution(all);
    if (fused_ != nullptr) run_fused(all);
    run_dense(all);
    run_recurrent(all);
    run_attention(all);
    return all;
  }

 private:
  void run_convolution(Bits& all) {
    const Owned x = random_tensor(conv_spec_.x, 1), w = random_tensor(conv_spec_.w, 2),
                b = random_tensor({32}, 3), pad = Owned::bytes(conv_->scratch_bytes()),
                saved = Owned::bytes(pool_->saved_bytes()),
                pool_pad = Owned::bytes(pool_->scratch_bytes());
    const Owned dz =
        reference::to_layout(random_tensor(pool_spec_.y(), 4), pool_->y_layout(), kernels_);
    Owned y(conv_spec_.y(), conv_->y_layout()), dy(conv_spec_.y(), conv_->y_layout()),
        z(pool_spec_.y(), pool_->y_layout()), dx(conv_spec_.x), dw(conv_spec_.w), db({32});
    conv_->forward(s_, x, w, b, y, pad);
    pool_->forward(s_, y, z, saved, pool_pad);
    pool_->backward(s_, dz, saved, dy, pool_pad);
    conv_->backward_data(s_, dy, w, dx, pad);
    conv_->backward_weights(s_, x, dy, dw, db, pad);
    for (const Owned* out : {&y, &z, &dy, &dx, &dw, &db}) append(all, *out);
  }

  void run_fused(Bits& all) {
    const Owned x = random_tensor(fused_spec_.x, 1), w = random_tensor(fused_spec_.w, 2),
                b = random_tensor({32}, 3), dy = random_tensor(fused_pool_.y(), 4),
                saved = Owned::bytes(fused_->saved_bytes()),
                pad = Owned::bytes(fused_->scratch_bytes());
    Owned y(fused_pool_.y()), dw(fused_spec_.w), db({32});
    fused_->forward(s_, x, w, b, y, saved, pad);
    fused_->backward(s_, x, w, y, dy, saved, {}, dw, db, pad);
    for (const Owned* out : {&y, &dw, &db}) append(all, *out);
  }

  void run_dense(Bits& all) {
    const Shape rows{32, 100};
    const Owned a = random_tensor({32, 777}, 1), b = random_tensor({128, 777}, 2),
                x = random_tensor(rows, 3), dy = random_tensor(rows, 4),
                gamma = random_tensor({100}, 5), beta = random_tensor({100}, 6);
    Owned c({32, 128}), y(rows), dx(rows), z(rows), mean({32}), variance({32}), dz(rows),
        dgamma({100}), dbeta({100});
    for (const auto& matmul : matmul_) {
      matmul->run(s_, {.a = a, .b = b, .c = c}, Owned::bytes(matmul->scratch_bytes()));
      append(all, c);
    }
    const Owned softmax_pad = Owned::bytes(softmax_->scratch_bytes());
    softmax_->forward(s_, x, y, softmax_pad);
    softmax_->backward(s_, y, dy, dx, softmax_pad);
    const Owned norm_pad = Owned::bytes(norm_->scratch_bytes());
    norm_->forward(s_, x, gamma, beta, z, mean, variance, norm_pad);
    norm_->backward(s_, x, gamma, mean, variance, dy, y, dz, dgamma, dbeta, norm_pad);
    for (const Owned* out : {&y, &dx, &z, &mean, &variance, &dz, &dgamma, &dbeta}) {
      append(all, *out);
    }
  }

  void run_recurrent(Bits& all) {
    Owned length_memory({recurrent_spec_.batch});
    Tensor lengths = length_memory;
    lengths.dtype = DType::i32;
    for (std::int64_t b = 0; b < recurrent_spec_.batch; ++b)
      lengths.as<std::int32_t>()[b] = static_cast<std::int32_t>(b % 6);
    for (std::size_t cell = 0; cell < recurrent_.size(); ++cell) {
      recurrent_spec_.cell = static_cast<RecurrentCell>(cell);
      const Owned x = random_tensor(recurrent_spec_.x(), 1),
                  dy = random_tensor(recurrent_spec_.y(), 2),
                  saved = Owned::bytes(recurrent_[cell]->saved_bytes()),
                  pad = Owned::bytes(recurrent_[cell]->scratch_bytes());
      Owned y(recurrent_spec_.y()), dx(recurrent_spec_.x());
      std::vector<Owned> w, dw;
      for (const Shape& shape : recurrent_spec_.weights()) {
        w.push_back(random_tensor(shape, 3 + w.size()));
        dw.emplace_back(shape);
      }
      const std::vector<Tensor> weights(w.begin(), w.end()), gradients(dw.begin(), dw.end());
      recurrent_[cell]->forward(s_, x, lengths, {}, weights, y, {}, saved, pad);
      recurrent_[cell]->backward(s_, x, lengths, {}, weights, y, dy, {}, saved, dx, {}, gradients,
                                 pad);
      append(all, y);
      append(all, dx);
      for (const Owned& gradient : dw) append(all, gradient);
    }
  }

  void run_attention(Bits& all) {
    const Shape in{2, 70, 144}, out{2, 70, 48};
    const Owned qkv = random_tensor(in, 1), dy = random_tensor(out, 2),
                pad = Owned::bytes(attention_->scratch_bytes());
    Owned y(out), log_sums({2, 3, 70}), dqkv(in);
    attention_->forward(s_, qkv, y, log_sums, pad);
    attention_->backward(s_, qkv, y, log_sums, dy, dqkv, pad);
    const Owned step_pad = Owned::bytes(attention_step_->scratch_bytes());
    Owned position_memory({1}), cache = random_tensor({2, 2, 3, 70, 16}, 3), step({2, 48});
    Tensor position = position_memory;
    position.dtype = DType::i32;
    *position.as<std::int32_t>() = 66;
    attention_step_->run(s_, random_tensor({2, 144}, 4), position, cache, step, step_pad);
    for (const Owned* result : {&y, &log_sums, &dqkv, &cache, &step}) append(all, *result);
  }

  Kernels& kernels_;
  RecurrentSpec recurrent_spec_;
  Conv2dSpec conv_spec_, fused_spec_;
  Pool2dSpec pool_spec_, fused_pool_;
  std::unique_ptr<Conv2d> conv_;
  std::unique_ptr<Pool2d> pool_;
  std::unique_ptr<ConvReluPool> fused_;
  std::array<std::unique_ptr<Matmul>, 4> matmul_;
  std::unique_ptr<Softmax> softmax_;
  std::unique_ptr<LayerNorm> norm_;
  std::array<std::unique_ptr<Recurrent>, 4> recurrent_;
  std::unique_ptr<Attention> attention_;
  std::unique_ptr<AttentionStep> attention_step_;
  Stream s_;
};

TEST(SameBits, RunTwice) {
  Everything one, other;
  const Bits first = one.run();
  EXPECT_EQ(one.run(), first);
  EXPECT_EQ(other.run(), first) << "a second object";
}

TEST(SameBits, OnAnotherThread) {
  Everything made_here;
  const Bits here = made_here.run();
  Bits moved, made_there;
  std::thread([&] { moved = made_here.run(); }).join();
  std::thread([&] { made_there = Everything().run(); }).join();
  EXPECT_EQ(moved, here) << "made here, run there";
  EXPECT_EQ(made_there, here) << "made and run there";
}

TEST(SameBits, WhileAnotherThreadRuns) {
  const Bits alone = Everything().run();
  constexpr int kRuns = 5;
  std::vector<Bits> results(2 * kRuns);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      Everything mine;
      for (int i = 0; i < kRuns; ++i) {
        results[static_cast<std::size_t>(t * kRuns + i)] = mine.run();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Bits& result : results) EXPECT_EQ(result, alone);
}

// The caller's OpenMP setting changes no bits and is left as it was.
TEST(CpuThreads, WhateverTheCallersCount) {
  const Bits alone = Everything(kernels(kCpu)).run();
  const int before = omp_get_max_threads();
  omp_set_num_threads(4);
  EXPECT_EQ(Everything(kernels(kCpu)).run(), alone);
  EXPECT_EQ(omp_get_max_threads(), 4);
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace peal

// A training loop over MPI as one writes it by hand; WITH_PEAL marks what changes when Peal adds up
// the gradients. The network has one hidden layer and learns a function of made-up inputs.
//
//   mpirun -np 2 train_peal [FILE]    every rank writes its weights to FILE.RANK
#include <mpi.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>
#ifdef WITH_PEAL
#include <peal/comm/mpi_comm.h>
#endif

namespace {

constexpr int kInputs = 16, kHidden = 64, kBatch = 96, kSteps = 200;
constexpr float kRate = 0.1f;

// A number in [-1, 1) that depends on `index` alone.
float noise(std::uint64_t index) {
  index = (index + 1) * 0x9e3779b97f4a7c15u;
  index = (index ^ (index >> 29)) * 0xbf58476d1ce4e5b9u;
  return static_cast<float>(index >> 40) / 8388608.0f - 1.0f;
}

struct Network {
  std::vector<float> weights = std::vector<float>(kHidden * (kInputs + 1));
  Network() {
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = 0.25f * noise(i);
  }

  // Adds the gradient of this record's squared error, divided by the batch; returns the error.
  float add_gradient(std::uint64_t record, std::vector<float>& gradient) const {
    float x[kInputs], h[kHidden], y = 0;
    for (int i = 0; i < kInputs; ++i) x[i] = noise(1'000'000 + record * kInputs + i);
    const float* out = &weights[kHidden * kInputs];
    for (int k = 0; k < kHidden; ++k) {
      float sum = 0;
      for (int i = 0; i < kInputs; ++i) sum += weights[k * kInputs + i] * x[i];
      h[k] = std::tanh(sum);
      y += out[k] * h[k];
    }
    const float error = y - std::sin(2 * x[0]);
    for (int k = 0; k < kHidden; ++k) {
      gradient[kHidden * kInputs + k] += error * h[k] / kBatch;
      const float inner = error * out[k] * (1 - h[k] * h[k]) / kBatch;
      for (int i = 0; i < kInputs; ++i) gradient[k * kInputs + i] += inner * x[i];
    }
    return error * error / kBatch;
  }
};

void train(Network& network, int rank, int ranks) {
  std::vector<float> gradient(network.weights.size());
  const auto count = static_cast<int>(gradient.size());
#ifdef WITH_PEAL
  const auto comm = peal::make_communicator(MPI_COMM_WORLD);
  peal::Stream stream;
  const peal::Tensor sum{gradient.data(), {count}};
#endif
  for (int step = 0; step < kSteps; ++step) {
    gradient.assign(gradient.size(), 0);
    float mine = 0, loss = 0;
    for (int b = rank * kBatch / ranks; b < (rank + 1) * kBatch / ranks; ++b) {
      mine += network.add_gradient(static_cast<std::uint64_t>(step * kBatch + b), gradient);
    }
#ifdef WITH_PEAL
    comm->wait(stream, comm->all_reduce(stream, "gradient", sum, sum, peal::ReduceOp::sum));
#else
    MPI_Allreduce(MPI_IN_PLACE, gradient.data(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
#endif
    for (int i = 0; i < count; ++i) network.weights[i] -= kRate * gradient[i];
    MPI_Reduce(&mine, &loss, 1, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);  // goes on beside Peal
    if (rank == 0 && step % 50 == 49) std::printf("step %d loss %.6f\n", step + 1, loss);
  }
}

// To NAME.RANK
void write_weights(const Network& network, const char* name, int rank) {
  const std::string path = std::string(name) + "." + std::to_string(rank);
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) {
    std::perror(path.c_str());
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  std::fwrite(network.weights.data(), sizeof(float), network.weights.size(), file);
  std::fclose(file);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  Network network;
  train(network, rank, ranks);
  if (argc > 1) write_weights(network, argv[1], rank);
  MPI_Finalize();
}

// An MNIST trainer in LibTorch for one process; WITH_PEAL marks what makes it a trainer for as many
// ranks as mpirun starts. A hook on each parameter hands its gradient over, buckets of them are
// added up while backward goes on, and the optimizer then sees the gradient of the whole batch.
//
//   mpirun -np 2 mnist_peal MNIST_FOLDER [FILE [SEED]]    weights go to FILE.RANK
#include <torch/torch.h>

#include <cstdio>
#include <fstream>
#ifdef WITH_PEAL
#include <peal/comm/buckets.h>
#include <peal/comm/mpi_comm.h>
#endif

namespace {

constexpr std::int64_t kRecords = 12000, kBatch = 120;  // kBatch: a multiple of the ranks

// Returns this process's rank.
int train(torch::nn::Sequential model, const torch::Tensor& images, const torch::Tensor& labels) {
  int rank = 0;
  std::int64_t first = 0, count = kBatch;  // this process's records of a batch
#ifdef WITH_PEAL
  const auto comm = peal::make_communicator(MPI_COMM_WORLD);
  peal::Stream stream;
  rank = comm->rank();
  count = kBatch / comm->world_size();
  first = rank * count;
  std::size_t bytes = 0;
  for (const torch::Tensor& p : model->parameters()) bytes += p.nbytes();
  peal::GradientBuckets buckets(*comm, bytes, {1 << 16, peal::Reduction::fast});
  std::vector<torch::Tensor> sums;
  for (const torch::Tensor& p : model->parameters()) {
    comm->wait(stream, comm->broadcast(stream, "parameter", {p.data_ptr(), {p.numel()}}, 0));
    const std::size_t end = bytes, begin = bytes -= p.nbytes();  // the last layer's come first
    sums.push_back(torch::from_blob(buckets.partial(0) + begin, p.sizes()));
    p.register_hook([&, begin, end, sum = sums.back()](const torch::Tensor& gradient) {
      sum.copy_(gradient);
      buckets.ready(stream, begin, end);
    });
  }
#endif
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  for (std::int64_t at = 0; at < kRecords; at += kBatch) {
    const torch::Tensor x = images.narrow(0, at + first, count);
    const torch::Tensor scores = model->forward(x);
    const auto sum = torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum);
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(scores, labels.narrow(0, at + first, count), sum);
    for (torch::Tensor& p : model->parameters()) p.mutable_grad().reset();
    (loss / static_cast<double>(kBatch)).backward();
#ifdef WITH_PEAL
    buckets.finish(stream);
    for (std::size_t i = 0; i < sums.size(); ++i) model->parameters()[i].mutable_grad() = sums[i];
#endif
    optimizer.step();
  }
  return rank;
}

void write_weights(torch::nn::Sequential model, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  for (const torch::Tensor& p : model->parameters()) {
    file.write(static_cast<const char*>(p.data_ptr()), static_cast<std::streamsize>(p.nbytes()));
  }
  if (!file) throw std::runtime_error(path + ": cannot write");
}

double accuracy(torch::nn::Sequential model, const torch::Tensor& images,
                const torch::Tensor& labels) {
  const torch::NoGradGuard no_gradients;
  return model->forward(images).argmax(1).eq(labels).to(torch::kFloat64).mean().item<double>();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s MNIST_FOLDER [FILE [SEED]]\n", argv[0]);
    return 2;
  }
#ifdef WITH_PEAL
  MPI_Init(&argc, &argv);
#endif
  torch::set_num_threads(1);
  torch::manual_seed(argc > 3 ? std::stoul(argv[3]) : 1);
  torch::nn::Sequential model(torch::nn::Flatten(), torch::nn::Linear(784, 128), torch::nn::ReLU(),
                              torch::nn::Linear(128, 10));
  using torch::data::datasets::MNIST;
  const MNIST training(argv[1]), test(argv[1], MNIST::Mode::kTest);
  const int rank = train(model, training.images(), training.targets());
  const double right = accuracy(model, test.images(), test.targets());
  if (rank == 0) std::printf("test accuracy %.4f\n", right);
  if (argc > 2) write_weights(model, std::string(argv[2]) + "." + std::to_string(rank));
#ifdef WITH_PEAL
  MPI_Finalize();
#endif
}

#include "launcher/shared_algorithms.h"

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "launcher/train.h"

namespace peal {

std::shared_ptr<const AlgorithmChoices> share_algorithms(JobSpec& job, Communicator& comm) {
  const std::string file = job.train().algorithms();
  if (file.empty()) return nullptr;
  std::string text;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    try {
      text = print_algorithm_choices(read_algorithm_choices(file));
    } catch (const Error& error) {
      fail_input("train.algorithms", error.what());
    }
  });
  auto size = static_cast<std::int64_t>(text.size());
  Stream s;
  comm.wait(s, comm.broadcast(s, "size of the table of algorithms", {&size, {1}, DType::i64}, 0));
  text.resize(static_cast<std::size_t>(size));
  comm.wait(s, comm.broadcast(s, "table of algorithms", {text.data(), {size}, DType::u8}, 0));
  auto table = std::make_shared<const AlgorithmChoices>(parse_algorithm_choices(text, file));
  const std::string digest = hex(table->digest());
  TrainSpec& train = *job.mutable_train();
  if (!train.algorithms_digest().empty() && train.algorithms_digest() != digest) {
    fail_input("train.algorithms_digest", train.algorithms_digest(), " is not the digest of ", file,
               ", ", digest, "; name the table that it is of, or leave it out");
  }
  train.set_algorithms_digest(digest);
  return table;
}

ChooseAlgorithm choose_by(std::shared_ptr<const AlgorithmChoices> table, const std::string& file,
                          const std::string& library) {
  if (table == nullptr) return {};
  if (table->made_on != library) {
    fail_input("train.algorithms", file, " was made on \"", table->made_on, "\" and this is \"",
               library,
               "\", which has other ways; make one here by peal bench algorithms --tune, or "
               "leave train.algorithms out");
  }
  return {.product = [table](const MatmulSpec& product) { return table->algorithm(product); },
          .convolution =
              [table](const Conv2dSpec& convolution, ConvPass pass) {
                return table->algorithm({convolution, pass});
              }};
}

}  // namespace peal

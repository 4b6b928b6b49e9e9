#include "launcher/shared_products.h"

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "launcher/train.h"

namespace peal {

std::shared_ptr<const ProductChoices> share_products(JobSpec& job, Communicator& comm) {
  const std::string file = job.train().products();
  if (file.empty()) return nullptr;
  std::string text;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    try {
      text = print_product_choices(read_product_choices(file));
    } catch (const Error& error) {
      fail_input("train.products", error.what());
    }
  });
  auto size = static_cast<std::int64_t>(text.size());
  Stream s;
  comm.wait(s, comm.broadcast(s, "size of the table of products", {&size, {1}, DType::i64}, 0));
  text.resize(static_cast<std::size_t>(size));
  comm.wait(s, comm.broadcast(s, "table of products", {text.data(), {size}, DType::u8}, 0));
  auto table = std::make_shared<const ProductChoices>(parse_product_choices(text, file));
  const std::string digest = hex(table->digest());
  TrainSpec& train = *job.mutable_train();
  if (!train.products_digest().empty() && train.products_digest() != digest) {
    fail_input("train.products_digest", train.products_digest(), " is not the digest of ", file,
               ", ", digest, "; name the table that it is of, or leave it out");
  }
  train.set_products_digest(digest);
  return table;
}

ChooseProduct choose_by(std::shared_ptr<const ProductChoices> table, const std::string& file,
                        const std::string& library) {
  if (table == nullptr) return {};
  if (table->made_on != library) {
    fail_input("train.products", file, " was made on \"", table->made_on, "\" and this is \"",
               library,
               "\", which has other ways for products; make one here by peal bench products "
               "--tune, or leave train.products out");
  }
  return [table](const MatmulSpec& product) { return table->algorithm(product); };
}

}  // namespace peal

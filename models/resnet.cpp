#include "models/resnet.h"

#include <cmath>
#include <vector>

#include "core/base/error.h"
#include "models/layers.h"

namespace peal {
namespace {

struct Form {
  ResNetSpec::Block block = ResNetSpec::BASIC;
  std::vector<int> blocks;  // of each stage
};

constexpr int kMostStages = 8;

Form form_of(const ResNetSpec& spec) {
  if (spec.blocks_size() > kMostStages) {
    fail_input("model.resnet.blocks", spec.blocks_size(), " stages; allowed are 1 to ",
               kMostStages);
  }
  if (spec.blocks_size() > 0) return {spec.block(), {spec.blocks().begin(), spec.blocks().end()}};
  if (spec.has_block() && spec.block() != ResNetSpec::BASIC) {
    fail_input("model.resnet.block",
               "is for model.resnet.blocks only; depth has blocks of its own");
  }
  switch (spec.depth()) {
    case 18:
      return {ResNetSpec::BASIC, {2, 2, 2, 2}};
    case 34:
      return {ResNetSpec::BASIC, {3, 4, 6, 3}};
    case 50:
      return {ResNetSpec::BOTTLENECK, {3, 4, 6, 3}};
    default:
      fail_input("model.resnet.depth", spec.depth(),
                 "; allowed are 18, 34 and 50, others by model.resnet.blocks");
  }
}

// Records the layers under torchvision's names.
class Builder {
 public:
  Builder(const ResNetSpec& spec, Value weight)
      : spec_(spec), form_(form_of(spec)), weight_(weight) {}

  Value features(Value x) {  // (B, channels, H, W) -> (B, F, H', W')
    x = stem(x);
    std::int64_t width = spec_.filters();
    for (std::size_t stage = 0; stage < form_.blocks.size(); ++stage, width *= 2) {
      for (int i = 0; i < form_.blocks[stage]; ++i) {
        const std::string name = cat("layer", stage + 1, ".", i, ".");
        const std::int64_t stride = stage > 0 && i == 0 ? 2 : 1;
        const Graph::Block marked(x.graph());
        x = form_.block == ResNetSpec::BASIC ? basic(name, x, width, stride)
                                             : bottleneck(name, x, width, stride);
      }
    }
    return x;
  }

 private:
  // Without a bias, as batch norm follows; padded so that stride 1 keeps the size. Starts as
  // torchvision's: normal, deviation sqrt(2 / fan_out) (He et al. 2015, section 2.2).
  Value conv(const std::string& name, Value x, std::int64_t filters, std::int64_t kernel,
             std::int64_t stride) {
    const auto fan_out = static_cast<double>(filters * kernel * kernel);
    const Value weight =
        x.graph().parameter(name + ".weight", {filters, x.shape()[1], kernel, kernel},
                            Initializer::normal(static_cast<float>(std::sqrt(2 / fan_out))));
    const std::int64_t padding = kernel / 2;
    return conv2d(x, weight, {}, {.stride = {stride, stride}, .padding = {padding, padding}});
  }

  Value norm(const std::string& name, Value x) { return batch_norm_layer(name, x, weight_); }

  // The last one of a block.
  Value last_norm(const std::string& name, Value x) {
    return batch_norm_layer(name, x, weight_, spec_.zero_init_residual() ? 0 : 1);
  }

  Value stem(Value x) {
    const std::int64_t width = spec_.filters();
    if (spec_.stem() == ResNetSpec::CIFAR) {
      return relu(norm("bn1", conv("conv1", x, width, 3, /*stride=*/1)));
    }
    x = relu(norm("bn1", conv("conv1", x, width, 7, /*stride=*/2)));
    return max_pool2d(x, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
  }

  Value basic(const std::string& name, Value x, std::int64_t width, std::int64_t stride) {
    Value y = relu(norm(name + "bn1", conv(name + "conv1", x, width, 3, stride)));
    y = last_norm(name + "bn2", conv(name + "conv2", y, width, 3, 1));
    return relu(add(y, shortcut(name, x, width, stride)));
  }

  // Version 1.5: the 3x3 convolution has the stride, not the first 1x1.
  Value bottleneck(const std::string& name, Value x, std::int64_t width, std::int64_t stride) {
    const std::int64_t wide = 4 * width;
    Value y = relu(norm(name + "bn1", conv(name + "conv1", x, width, 1, 1)));
    y = relu(norm(name + "bn2", conv(name + "conv2", y, width, 3, stride)));
    y = last_norm(name + "bn3", conv(name + "conv3", y, wide, 1, 1));
    return relu(add(y, shortcut(name, x, wide, stride)));
  }

  Value shortcut(const std::string& name, Value x, std::int64_t filters, std::int64_t stride) {
    if (stride == 1 && x.shape()[1] == filters) return x;
    return norm(name + "downsample.1", conv(name + "downsample.0", x, filters, 1, stride));
  }

  const ResNetSpec& spec_;
  Form form_;
  Value weight_;
};

}  // namespace

ModelInfo resnet_info(const ResNetSpec& spec) {
  form_of(spec);
  ModelInfo info;
  info.record_shape = {spec.channels(), spec.height(), spec.width()};
  info.classes = spec.classes();
  info.has_accuracy = true;
  return info;
}

void build_resnet(const ResNetSpec& spec, std::int64_t batch, Graph& graph) {
  const Shape record = resnet_info(spec).record_shape;
  const Value x = graph.input("x", {batch, record[0], record[1], record[2]});
  const Value labels = graph.input("labels", {batch}, DType::i32);
  const Value weight = graph.input("weight", {batch});

  const Value features = Builder(spec, weight).features(x);
  const Value logits = dense_layer("fc", global_avg_pool2d(features), spec.classes());

  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
  graph.set_metric("correct", count_correct(logits, labels, weight));
  graph.set_output("logits", logits);
}

}  // namespace peal

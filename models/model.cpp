#include "models/model.h"

#include "core/base/error.h"
#include "models/cnn.h"
#include "models/gpt.h"
#include "models/layers.h"
#include "models/mlp.h"
#include "models/resnet.h"
#include "models/rnn.h"

namespace peal {
namespace {

[[noreturn]] void fail_no_model() {
  fail_input("model", "no model is chosen; allowed: cnn, mlp, resnet, gpt, rnn");
}

// Of a language model's positions; others have 0.
void check_length(const ModelSpec& spec, std::int64_t length, std::int64_t shortest) {
  const ModelInfo info = model_info(spec);
  const std::int64_t longest = info.vocabulary > 0 ? info.record_shape[0] : 0;
  if (length < shortest || length > longest) {
    fail_internal("model", "a length of ", length, "; allowed are ", shortest, " to ", longest);
  }
}

}  // namespace

ModelInfo model_info(const ModelSpec& spec) {
  switch (spec.kind_case()) {
    case ModelSpec::kCnn:
      return cnn_info(spec.cnn());
    case ModelSpec::kMlp:
      return mlp_info(spec.mlp());
    case ModelSpec::kResnet:
      return resnet_info(spec.resnet());
    case ModelSpec::kRnn:
      return rnn_info(spec.rnn());
    case ModelSpec::kGpt:
      return gpt_info(spec.gpt());
    case ModelSpec::KIND_NOT_SET:
      break;
  }
  fail_no_model();
}

void build_model(const ModelSpec& spec, std::int64_t batch, Graph& graph, std::int64_t length) {
  check_length(spec, length, /*shortest=*/0);
  switch (spec.kind_case()) {
    case ModelSpec::kCnn:
      return build_cnn(spec.cnn(), batch, graph);
    case ModelSpec::kMlp:
      return build_mlp(spec.mlp(), batch, graph);
    case ModelSpec::kResnet:
      return build_resnet(spec.resnet(), batch, graph);
    case ModelSpec::kRnn:
      return build_rnn(spec.rnn(), batch, length, graph);
    case ModelSpec::kGpt:
      return build_gpt(spec.gpt(), batch, length, graph);
    case ModelSpec::KIND_NOT_SET:
      break;
  }
  fail_no_model();
}

void build_text(const ModelSpec& spec, std::int64_t length, Graph& graph) {
  check_length(spec, length, /*shortest=*/1);
  if (spec.has_gpt()) return build_gpt_text(spec.gpt(), length, /*next=*/false, graph);
  if (spec.has_rnn()) return build_rnn_text(spec.rnn(), length, graph);
  fail_internal("model", "a language model that build_text does not know");
}

void build_next_token(const ModelSpec& spec, Graph& graph) {
  if (spec.has_gpt()) return build_gpt_text(spec.gpt(), 1, /*next=*/true, graph);
  fail_internal("model", "keeps nothing of a text");
}

std::string cache_name(std::size_t i) {
  return "cache." + std::to_string(i);
}

bool ignores_tensor(const ModelSpec& spec, const std::string& name) {
  switch (spec.kind_case()) {
    case ModelSpec::kCnn:
    case ModelSpec::kMlp:
    case ModelSpec::kResnet:
    case ModelSpec::kRnn:
      return counts_batches(name);
    case ModelSpec::kGpt:
      return gpt_ignores_tensor(name);
    case ModelSpec::KIND_NOT_SET:
      break;
  }
  fail_no_model();
}

}  // namespace peal

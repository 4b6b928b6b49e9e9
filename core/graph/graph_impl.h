// What a Graph has recorded, for the compiler's sources. Values and nodes are numbered in the order
// of recording, so that a node only reads values of smaller numbers.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/graph/graph.h"

namespace peal {

struct Graph::ValueInfo {
  enum class Kind : std::uint8_t { input, parameter, state, computed };
  Kind kind = Kind::computed;
  std::string name;  // of an input, parameter or state
  Shape shape;
  DType dtype = DType::f32;
  int root = 0;  // itself, or what it is an alias of
  Initializer start;
};

struct Graph::Node {
  std::string op;
  std::vector<int> inputs, outputs;  // value numbers
  CompileOp compile;
  OpTraits traits;
  int block = -1;  // number of the Graph::Block, -1: none
};

struct Graph::Impl {
  struct Slot {
    std::string name;
    int value;
    CompileOp apply;
  };

  std::vector<ValueInfo> values;
  std::vector<Node> nodes;
  std::vector<Slot> slots;
  std::vector<std::pair<std::string, int>> outputs;
  std::set<std::string> names;
  int loss = -1;
  int blocks = 0;  // begun so far
  int block = -1;  // that is being recorded

  int root(int value) const { return values[static_cast<std::size_t>(value)].root; }
  const ValueInfo& root_info(int value) const {
    return values[static_cast<std::size_t>(root(value))];
  }
  void claim(const std::string& kind, const std::string& name);
  int add_value(ValueInfo info);
};

}  // namespace peal

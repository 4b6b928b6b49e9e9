#include "launcher/host_facts.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostEntries = 4096, kLongestText = 4096;

// One object of the text; every field must be there and of its kind.
class Fields {
 public:
  Fields(const Json& object, const std::string& where) : object_(object), where_(where) {
    if (!object.is_object()) fail_input(where, "is no JSON object");
  }

  void read(const char* name, std::string& into) const {
    const Json& value = at(name);
    if (!value.is_string()) wrong(name, "a text");
    into = value.get<std::string>();
    if (into.size() > kLongestText) wrong(name, "a text of at most 4096 bytes");
    into = printable(std::move(into));
  }
  void read(const char* name, std::uint64_t& into) const {
    const Json& value = at(name);
    if (!value.is_number_unsigned()) wrong(name, "a whole number");
    into = value.get<std::uint64_t>();
  }
  void read(const char* name, int& into) const {
    std::uint64_t value = 0;
    read(name, value);
    if (value > 1 << 20) wrong(name, "at most 2^20");
    into = static_cast<int>(value);
  }
  void read(const char* name, double& into) const {
    const Json& value = at(name);
    if (!value.is_number() || !(value.get<double>() >= 0 && value.get<double>() <= 1e6)) {
      wrong(name, "a number from 0 to 1e6");
    }
    into = value.get<double>();
  }
  void read(const char* name, bool& into) const {
    if (!at(name).is_boolean()) wrong(name, "true or false");
    into = at(name).get<bool>();
  }
  template <typename Entry, typename Read>
  void read(const char* name, std::vector<Entry>& into, const Read& read_entry) const {
    const Json& list = at(name);
    if (!list.is_array() || list.size() > kMostEntries) wrong(name, "a list of at most 4096");
    for (const Json& item : list) {
      read_entry(Fields(item, where_ + ": " + name), into.emplace_back());
    }
  }

 private:
  const Json& at(const char* name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) fail_input(where_, "says nothing of '", name, "'");
    return *found;
  }
  [[noreturn]] void wrong(const char* name, const char* allowed) const {
    fail_input(where_, "'", name, "' is not ", allowed);
  }

  const Json& object_;
  const std::string& where_;
};

template <typename Entry, typename Print>
Json list(const std::vector<Entry>& entries, const Print& print) {
  Json out = Json::array();
  for (const Entry& entry : entries) out.push_back(print(entry));
  return out;
}

}  // namespace

std::string printable(std::string text) {
  unsigned char before = 0;
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool high = before == 0xc2 && byte >= 0x80 && byte < 0xa0;  // U+0080 to U+009F
    if (byte < 0x20 || byte == 0x7f) c = '?';
    if (high) (&c)[-1] = c = '?';
    before = byte;
  }
  return text;
}

std::string print_host_facts(const HostFacts& f) {
  const Json out = {
      {"host", f.host},
      {"build", f.build},
      {"binary", f.binary},
      {"libraries", list(f.libraries,
                         [](const HostFacts::Library& library) {
                           return Json{{"name", library.name}, {"version", library.version}};
                         })},
      {"cpu", f.cpu},
      {"instructions", f.instructions},
      {"cores", f.cores},
      {"cpu_quota", f.cpu_quota},
      {"orted", f.orted},
      {"files", f.files},
      {"locked_bytes", f.locked_bytes},
      {"core_bytes", f.core_bytes},
      {"shm_bytes", f.shm_bytes},
      {"shm_free", f.shm_free},
      {"rdma", f.rdma},
      {"cards", list(f.cards,
                     [](const HostFacts::Card& card) {
                       return Json{{"name", card.name},
                                   {"address", card.address},
                                   {"bits", card.bits},
                                   {"up", card.up}};
                     })},
      {"names", list(f.names,
                     [](const HostFacts::Resolved& name) {
                       return Json{{"name", name.name}, {"address", name.address}};
                     })},
      {"gpus", list(f.gpus,
                    [](const HostFacts::Gpu& gpu) {
                      return Json{{"name", gpu.name}, {"driver", gpu.driver}};
                    })},
      {"gpu_trouble", f.gpu_trouble},
      {"folders", list(f.folders, [](const HostFacts::Folder& folder) {
         return Json{{"path", folder.path},
                     {"trouble", folder.trouble},
                     {"filesystem", folder.filesystem},
                     {"free", folder.free}};
       })}};
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HostFacts parse_host_facts(std::string_view text, const std::string& where) {
  const Json parsed = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) fail_input(where, "is no JSON");
  const Fields in(parsed, where);
  HostFacts f;
  in.read("host", f.host);
  in.read("build", f.build);
  in.read("binary", f.binary);
  in.read("libraries", f.libraries, [](const Fields& entry, HostFacts::Library& library) {
    entry.read("name", library.name);
    entry.read("version", library.version);
  });
  in.read("cpu", f.cpu);
  in.read("instructions", f.instructions);
  in.read("cores", f.cores);
  in.read("cpu_quota", f.cpu_quota);
  in.read("orted", f.orted);
  in.read("files", f.files);
  in.read("locked_bytes", f.locked_bytes);
  in.read("core_bytes", f.core_bytes);
  in.read("shm_bytes", f.shm_bytes);
  in.read("shm_free", f.shm_free);
  in.read("rdma", f.rdma);
  in.read("cards", f.cards, [](const Fields& entry, HostFacts::Card& card) {
    entry.read("name", card.name);
    entry.read("address", card.address);
    entry.read("bits", card.bits);
    entry.read("up", card.up);
  });
  in.read("names", f.names, [](const Fields& entry, HostFacts::Resolved& name) {
    entry.read("name", name.name);
    entry.read("address", name.address);
  });
  in.read("gpus", f.gpus, [](const Fields& entry, HostFacts::Gpu& gpu) {
    entry.read("name", gpu.name);
    entry.read("driver", gpu.driver);
  });
  in.read("gpu_trouble", f.gpu_trouble);
  in.read("folders", f.folders, [](const Fields& entry, HostFacts::Folder& folder) {
    entry.read("path", folder.path);
    entry.read("trouble", folder.trouble);
    entry.read("filesystem", folder.filesystem);
    entry.read("free", folder.free);
  });
  return f;
}

}  // namespace peal

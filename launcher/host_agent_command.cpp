#include <CLI/CLI.hpp>
#include <memory>

#include "launcher/cli.h"
#include "launcher/host_agent.h"

namespace peal {

// Started by `peal launch --elastic`, on no list of commands.
void add_host_agent_command(CLI::App& app) {
  auto token = std::make_shared<std::string>();
  auto host = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("host-agent", "the part of launch --elastic on a host");
  command->group("");
  command->add_option("--token", *token, "marks the ranks it looks after")->required();
  command->add_option("--host", *host, "its name")->required();
  command->callback([token, host] { serve_as_host_agent(*token, *host); });
}

}  // namespace peal

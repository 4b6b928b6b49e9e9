#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/config/job.h"
#include "launcher/cli.h"
#include "launcher/job_setup.h"
#include "launcher/language_model.h"
#include "launcher/next_token.h"
#include "launcher/shard_record.h"
#include "launcher/stop_signal.h"
#include "launcher/whole_characters.h"

namespace peal {
namespace {

struct GenerateArguments {
  std::string checkpoint;
  std::string prompt, prompt_file;
  std::int64_t tokens = 256;
  DrawOptions draw;
  JobArguments job;
  std::string tokenizer, encoder, merges;
  std::vector<std::string> text;
};

// The job that the checkpoint was made by, or the one that was given.
JobSpec job_of(const GenerateArguments& arguments, const Checkpoint& checkpoint) {
  if (!arguments.job.file.empty()) return read_job(arguments.job);
  if (checkpoint.info().job.empty()) {
    fail_input(arguments.checkpoint, "tells of no job; give --job FILE, whose model it is");
  }
  JobSpec job = parse_job(checkpoint.info().job, checkpoint.path().string());
  for (const std::string& assignment : arguments.job.set) set_field(job, assignment);
  return job;
}

// The source of tokens behind one of records: itself, or what its shards were made of.
std::optional<TokensSpec> tokens_of(const SourceSpec& source) {
  if (source.has_tokens()) return source.tokens();
  if (!source.has_shards() || source.shards().directory().empty()) return {};
  const std::filesystem::path directory = source.shards().directory();
  const std::optional<std::string> record = read_shard_record(directory);
  if (!record) return {};
  const std::string where = shard_record_path(directory).string();
  const std::string text = parse_shard_record(*record, where).source;
  const JobSpec job = parse_job(cat("data { train {\n", text, "} }\n"), where);
  if (!job.data().train().has_tokens()) return {};
  return job.data().train().tokens();
}

TokensSpec tokenizer_spec(const GenerateArguments& arguments, const JobSpec& job) {
  TokensSpec spec;
  if (arguments.tokenizer.empty()) {
    for (const SourceSpec& source : {job.data().train(), job.data().test()}) {
      if (const std::optional<TokensSpec> found = tokens_of(source)) return *found;
    }
    fail_input("--tokenizer",
               "the job does not tell how its text became tokens; give --tokenizer BYTES, "
               "CHARACTERS with --text, or GPT2 with --encoder and --merges");
  }
  TokensSpec::Tokenizer kind{};
  TokensSpec::Tokenizer_Parse(arguments.tokenizer, &kind);
  spec.set_tokenizer(kind);
  for (const std::string& path : arguments.text) spec.add_path(path);
  spec.set_encoder(arguments.encoder);
  spec.set_merges(arguments.merges);
  const bool characters = kind == TokensSpec::CHARACTERS, gpt2 = kind == TokensSpec::GPT2;
  if (characters && arguments.text.empty()) {
    fail_input("--text",
               "is missing; --tokenizer CHARACTERS needs the text whose characters it has");
  }
  if (gpt2 && (arguments.encoder.empty() || arguments.merges.empty())) {
    fail_input("--tokenizer",
               "GPT2 needs --encoder and --merges, its files encoder.json and "
               "vocab.bpe");
  }
  return spec;
}

void print_at_once(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0)
    fail_input("standard output", "cannot write: ", std::strerror(errno));
}

// Writes the prompt and what the model says to follow it, as it comes.
void generate(const GenerateArguments& arguments) {
  NextToken next(arguments.draw);
  const Checkpoint checkpoint = Checkpoint::open(arguments.checkpoint);
  const JobSpec job = job_of(arguments, checkpoint);
  LanguageModel model(job.model(), checkpoint);
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(tokenizer_spec(arguments, job));
  const std::string prompt =
      arguments.prompt_file.empty() ? arguments.prompt : read_file(arguments.prompt_file);
  if (prompt.empty()) {
    fail_input(arguments.prompt_file.empty() ? "--prompt" : arguments.prompt_file,
               "is empty; a text begins with one character at least");
  }
  std::vector<std::int32_t> text = tokenizer->encode(prompt);
  const auto known =
      static_cast<std::size_t>(std::min(model.vocabulary(), tokenizer->vocabulary()));

  StopSignal signals({SIGINT, SIGTERM});
  WholeCharacters characters(on_a_terminal());
  for (std::int64_t i = 0; i < arguments.tokens && !StopSignal::asked(); ++i) {
    // What cannot be said is known before anything is written.
    const std::span<const float> scores = model.scores(text);
    if (i == 0) print_at_once(characters.add(prompt));
    const std::int32_t token = next.draw(scores.first(known), text.size());
    if (token == tokenizer->end_of_text()) break;
    text.push_back(token);
    print_at_once(characters.add(tokenizer->bytes(token)));
  }
  print_at_once(characters.end() + "\n");
  signals.over();
}

void add_generate_arguments(CLI::App& command, GenerateArguments& arguments) {
  command
      .add_option("checkpoint", arguments.checkpoint,
                  "a run directory (its newest checkpoint), a checkpoint or a safetensors file")
      ->required();
  auto* prompt = command.add_option_group("prompt")->require_option(1);
  prompt->add_option("--prompt", arguments.prompt, "the text that is gone on with");
  prompt->add_option("--prompt-file", arguments.prompt_file, "a file that holds it");
  command.add_option("--tokens", arguments.tokens, "how many to add at most")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  command
      .add_option("--temperature", arguments.draw.temperature,
                  "below 1 likely tokens become likelier; 0: always the likeliest")
      ->capture_default_str();
  command
      .add_option("--top-k", arguments.draw.top_k, "draw from the k likeliest only; 0: from all")
      ->capture_default_str();
  command
      .add_option("--top-p", arguments.draw.top_p,
                  "draw from the fewest tokens that together have this probability")
      ->capture_default_str();
  command.add_option("--seed", arguments.draw.seed, "the same seed, the same text")
      ->capture_default_str();
  command.add_option("--job", arguments.job.file,
                     "a job to take model and tokenizer from; else the run's own");
  command.add_option("--set", arguments.job.set, "override a field of the job, path=value")
      ->type_name("PATH=VALUE")
      ->take_all()
      ->allow_extra_args(false);
  command
      .add_option("--tokenizer", arguments.tokenizer,
                  "how text becomes tokens; else as data.train of the job says")
      ->check(CLI::IsMember({"BYTES", "CHARACTERS", "GPT2"}));
  command.add_option("--text", arguments.text, "for CHARACTERS: the text that was trained on");
  command.add_option("--encoder", arguments.encoder, "for GPT2: encoder.json (vocab.json)");
  command.add_option("--merges", arguments.merges, "for GPT2: vocab.bpe (merges.txt)");
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command =
      app.add_subcommand("generate", "let a trained language model go on with a text");
  add_generate_arguments(*command, *arguments);
  command->footer(
      "Ctrl-C ends the text; so does the model where GPT-2's tokenizer has an end of text.\n"
      "Of a text longer than the model's context the last tokens count, and each new one takes as\n"
      "long as a prompt of that length.\n"
      "Examples:\n"
      "  peal generate runs/shakespeare --prompt 'ROMEO:' --tokens 500 --top-k 40\n"
      "  peal generate runs/shakespeare --prompt-file scene.txt --temperature 0\n"
      "  peal generate model.safetensors --job gpt2.textproto --prompt 'The bell' --top-p 0.9 \\\n"
      "    --tokenizer GPT2 --encoder encoder.json --merges vocab.bpe");
  command->callback([arguments] { generate(*arguments); });
}

}  // namespace peal

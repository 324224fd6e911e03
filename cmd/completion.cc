#include "completion.h"

#include <algorithm>
#include <sstream>

#include "control/config/key_text.h"

namespace sluice {

namespace {

// Subcommands and options, with the words that stand for themselves.
std::vector<std::string> words_of(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* sub :
       app.get_subcommands([](const CLI::App* each) { return !each->get_group().empty(); })) {
    words.push_back(sub->get_name());
  }
  for (const CLI::Option* option :
       app.get_options([](const CLI::Option* each) { return each->nonpositional(); })) {
    words.push_back(option->get_name());
  }
  return words;
}

// KEY= of a port of the type that the line names, or the words of that key.
std::vector<std::string> words_of_port(const std::vector<std::string>& line, const std::string& last) {
  std::string type = "app";
  for (const std::string& word : line) {
    type = word.starts_with("type=") ? word.substr(5) : type;
  }
  const PortTypes types = type == "guest" ? kGuest : type == "tap" ? kTap : kApp;
  const std::size_t equals = last.find('=');
  std::vector<std::string> words;
  for (const KeyText& text : key_texts("port")) {
    if ((text.key.of & types) == 0) {
      continue;
    }
    if (equals == std::string::npos) {
      words.push_back(std::string(text.key.name) + "=");
    } else if (last.substr(0, equals) == text.key.name) {
      words.assign(text.key.words.begin(), text.key.words.end());
      if (text.kind == ValueKind::kBoolean) {
        words = {"true", "false"};
      }
    }
  }
  return words;
}

std::vector<std::string> names_for(const std::string& key, const NamesOf& names) {
  std::vector<std::string> words;
  if (key == "nic" || key == "uplink") {
    words = names("nics");
  } else if (key == "port" || key == "to") {
    words = names("ports");
  }
  if (key == "to") {
    words.insert(words.end(), {"kernel", "drop"});
  }
  return words;
}

}  // namespace

std::vector<std::string> complete(const CLI::App& app, const std::string& line, const NamesOf& names) {
  std::istringstream in(line);
  std::vector<std::string> before{std::istream_iterator<std::string>(in), {}};
  std::string last;
  if (!before.empty() && !std::isspace(static_cast<unsigned char>(line.back()))) {
    last = before.back();
    before.pop_back();
  }
  const CLI::App* command = &app;
  for (const std::string& word : before) {
    const auto named =
        command->get_subcommands([&word](const CLI::App* sub) { return sub->get_name() == word; });
    command = named.empty() ? command : named.front();
  }
  const CLI::App* parent = command->get_parent();
  const bool of_port = parent != nullptr && parent->get_name() == "port";
  const std::string previous = before.empty() ? "" : before.back();
  const std::size_t equals = last.find('=');
  std::vector<std::string> words;
  if (previous.starts_with("--")) {
    words = names_for(previous.substr(2), names);
  } else if (of_port && command->get_name() == "del" && !last.starts_with("-")) {
    words = names("ports");
  } else if (of_port && command->get_name() == "add" && previous != "add" && !last.starts_with("-")) {
    words = words_of_port(before, last);
    if (equals != std::string::npos && words.empty()) {
      words = names_for(last.substr(0, equals), names);
    }
  } else {
    words = words_of(*command);
  }
  const std::string begun = equals == std::string::npos ? last : last.substr(equals + 1);
  std::erase_if(words, [&begun](const std::string& word) { return !word.starts_with(begun); });
  std::ranges::sort(words);
  return words;
}

}  // namespace sluice

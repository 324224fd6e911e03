#include "control/config/keys.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "control/config/key_text.h"

namespace sluice {
namespace {

std::string docs_page() {
  std::ifstream file(SLUICE_SOURCE_DIR "/docs/config.md");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Keys, AreInTheDocumentationAsInTheTable) {
  const std::string page = docs_page();
  for (const KeyTable& table : key_tables()) {
    const std::string begin = fmt::format("<!-- keys: {} -->\n", table.title);
    const std::size_t at = page.find(begin);
    ASSERT_NE(at, std::string::npos) << table.title;
    const std::size_t from = at + begin.size();
    EXPECT_EQ(page.substr(from, page.find("<!-- end -->", from) - from), table.text)
        << "sluicectl config-keys | test/tools/config_tables.py docs/config.md";
  }
}

TEST(Keys, OfAPortStandInATableOfTheirTypeEach) {
  std::string all;
  for (const KeyTable& table : key_tables()) {
    all += table.title.starts_with("port") ? table.text : "";
  }
  for (std::string_view name : key_names<PortConfig>()) {
    EXPECT_NE(all.find(fmt::format("| `{}` |", name)), std::string::npos) << name;
  }
}

template <typename Section>
void expect_sound() {
  std::set<std::string_view> names;
  for (const auto& [key, unused] : keys<Section>()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name << " is there twice";
    EXPECT_TRUE(!key.says.empty() || !key.now_called.empty()) << key.name;
    EXPECT_FALSE(key.says.ends_with('.')) << key.name;
    EXPECT_EQ(key.required & ~key.of, 0) << key.name;
    EXPECT_EQ(key.example.empty(), key.required == 0) << key.name;
  }
}

TEST(Keys, AreWholeAndThereOnce) {
  expect_sound<DaemonConfig>();
  expect_sound<WorkerConfig>();
  expect_sound<NicConfig>();
  expect_sound<PortConfig>();
  expect_sound<RuleConfig>();
}

TEST(Keys, OfAPortHaveAValueInThePortsThatHaveThemAndInNoOther) {
  PortConfig app, guest, tap;
  guest.of_type = GuestConfig{};
  tap.of_type = TapConfig{};
  for (const auto& [key, field] : keys<PortConfig>()) {
    for (PortConfig* port : {&app, &guest, &tap}) {
      const bool has = (key.of & types_of(*port)) != 0 && key.name != "type";
      EXPECT_EQ(!std::holds_alternative<std::monostate>(field(*port)), has)
          << key.name << " of " << port->type();
    }
  }
}

TEST(Keys, AreDescribedForPeople) {
  auto text_of = [](std::string_view section, std::string_view name) {
    for (const KeyText& text : key_texts(section)) {
      if (text.key.name == name) {
        return fmt::format("{}; default {}", text.value, text.by_default);
      }
    }
    return std::string("no such key");
  };
  EXPECT_EQ(text_of("port", "type"), "`\"app\"`, `\"guest\"` or `\"tap\"`; default must be given");
  EXPECT_EQ(text_of("port", "mac"), "string or array of strings; default must be given; app: none");
  EXPECT_EQ(text_of("port", "pages"), "integer, 64 to 1048576; default `4096`");
  EXPECT_EQ(text_of("port", "ring"), "0 or a power of two from 64 to 65536; default `0`");
  EXPECT_EQ(text_of("port", "stall_window_ms"), "integer, 100 to 60000 ms; default `1000`");
  EXPECT_EQ(text_of("port", "memory"), "size, `\"1MiB\"` to `\"64TiB\"`; default `\"256GiB\"`");
  EXPECT_EQ(text_of("port", "mode"), "`\"bridge\"`, `\"vepa\"` or `\"private\"`; default `\"bridge\"`");
  EXPECT_EQ(text_of("nic", "queues"), "`\"all\"` or array of integers; default `\"all\"`");
  EXPECT_EQ(text_of("worker", "cpu"), "integer; default none");
  EXPECT_EQ(text_of("worker", "nap_us"), "no such key");
  EXPECT_EQ(text_of("rule", "shed"), "boolean; default `false`");
}

}  // namespace
}  // namespace sluice

// chronorec_recommend MODEL K AT ITEM:TIME[:TYPE] ... - the K best next items of a user with these events.
//
// Items are codes, rows of the model's items.arrow; times are microseconds since 1970. Prints a code and a
// score a line.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/model/model.h"

namespace {

struct Event {
  int32_t item;
  int64_t time;
  int32_t type;
};

// The code of a type is its place in the model's event_types.
Event parse_event(const std::string& text, int64_t num_items) {
  size_t used = 0;
  const long long item = std::stoll(text, &used);
  if (used >= text.size() || text[used] != ':' || item < 0 || item >= num_items)
    throw std::invalid_argument("wanted ITEM:TIME[:TYPE] with an item of the model, got " + text);
  const size_t second = text.find(':', used + 1);
  const int32_t type = second == std::string::npos ? -1 : std::stoi(text.substr(second + 1));
  return {static_cast<int32_t>(item), std::stoll(text.substr(used + 1)), type};
}

void run(const std::vector<std::string>& arguments) {
  const chronorec::Model model(arguments[0]);
  const int64_t k = std::stoll(arguments[1]), at = std::stoll(arguments[2]);
  if (k < 1 || k > model.scorer().num_items) throw std::invalid_argument("K: wanted from 1 to all items");
  const int64_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());

  chronorec::SessionStore sessions(model.program(), /*memory=*/int64_t{1} << 30, /*idle_seconds=*/0,
                                   /*keeps_types=*/model.program().reads_types());
  const chronorec::UserId user = {42, {}, /*is_text=*/false};
  for (size_t i = 3; i < arguments.size(); ++i) {
    const Event event = parse_event(arguments[i], model.scorer().num_items);
    sessions.append(user, &event.item, &event.time, &event.type, 1, now);
  }

  std::vector<float> scores(static_cast<size_t>(k));
  std::vector<int32_t> items(static_cast<size_t>(k));
  chronorec::recommend(sessions, model.scorer(),
                       {user, at,
                        /*end=*/at, now, model.leave_seen(),
                        /*profile=*/{},
                        /*exclude=*/{},
                        /*allow=*/{}, chronorec::view_of(scores.data(), chronorec::DType::f32, {k}),
                        chronorec::view_of(items.data(), chronorec::DType::i32, {k})});
  for (size_t i = 0; i < items.size() && items[i] >= 0; ++i)
    std::printf("%d %.9g\n", static_cast<int>(items[i]), static_cast<double>(scores[i]));
}

}  // namespace

int main(int count, char** values) {
  if (count < 4) {
    std::fprintf(stderr, "usage: %s MODEL K AT [ITEM:TIME[:TYPE] ...]\n", values[0]);
    return 2;
  }
  try {
    run({values + 1, values + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

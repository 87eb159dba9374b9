// The engine's program and its sessions as Python classes.
#pragma once
#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "bindings/call.h"
#include "engine/program.h"
#include "engine/program_builder.h"
#include "engine/replay.h"
#include "engine/scorer.h"
#include "engine/session_store.h"

namespace chronorec {

// Arrays that stay borrowed as long as their holder lives.
class KeptViews {
 public:
  TensorView view(const py::object& array) {
    kept_.push_back(array);
    return borrows_.emplace_back().view(array);
  }

 private:
  std::deque<Borrow> borrows_;
  std::vector<py::object> kept_;
};

struct KeptProgram {
  explicit KeptProgram(DType states = DType::f32) : program(states) {}

  Program program;
  KeptViews weights;
  OwnedArrays packed;
};

inline UserId user_id(py::handle user) {
  if (PyUnicode_Check(user.ptr())) {
    Py_ssize_t size;
    const char* text = PyUnicode_AsUTF8AndSize(user.ptr(), &size);
    if (text == nullptr) throw py::error_already_set();
    return {0, {text, static_cast<size_t>(size)}, true};
  }
  if (!PyLong_Check(user.ptr()) || PyBool_Check(user.ptr()))
    throw py::type_error("user: wanted a text or a whole number, got " + std::string(py::repr(user)));
  const long long number = PyLong_AsLongLong(user.ptr());
  if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
  return {number, {}, false};
}

inline py::object object_of(const UserId& user) {
  if (user.is_text) return py::str(user.text.data(), user.text.size());
  return py::int_(user.number);
}

class Sessions {
 public:
  Sessions(const KeptProgram& program, const py::object& panels, int64_t num_items, const py::object& bias,
           const py::object& codes, const py::object& facts, int64_t memory, int64_t idle_seconds,
           bool keeps_types)
      : scorer_{table_.view(panels), num_items, table_.view(bias), table_.view(codes), table_.view(facts)},
        store_(program.program, memory, idle_seconds, keeps_types) {
    expect_that(program.program.most_items() >= num_items, "program", num_items,
                program.program.most_items());
    streams_ = program.program.answers();
    if (streams_)
      expect_packed(scorer_.panels, "panels", DType::f32,
                    {(num_items + 15) / 16, program.program.answer_width(), 16});
  }

  SessionStore& store() { return store_; }

  int64_t append(py::handle user, py::handle items, py::handle times, py::handle types, int64_t now) {
    Borrow borrows[3];
    const TensorView codes = borrows[0].view(items), at = borrows[1].view(times);
    const TensorView kinds = borrows[2].view(types);
    expect_packed(codes, "items", DType::i32, {kAnySize});
    if (kinds) expect_packed(kinds, "types", DType::i32, {codes.shape[0]});
    expect_packed(at, "times", DType::i64, {codes.shape[0]});
    expect_ids(codes, "items", scorer_.num_items);
    return add(user, codes.as<const int32_t>(), at.as<const int64_t>(), kinds.as<const int32_t>(),
               codes.shape[0], now);
  }

  int64_t append_one(py::handle user, int32_t item, int64_t time, int32_t type, int64_t now) {
    expect_that(item >= 0 && item < scorer_.num_items, "item", "a code of the model", item);
    return add(user, &item, &time, &type, 1, now);
  }

  // Fills the scores; returns the codes of as many items as there are.
  py::list recommend(py::handle user, int64_t at, int64_t end, int64_t now, bool leave_seen,
                     py::handle profile, py::handle exclude, py::handle allow, py::handle scores) {
    static thread_local std::vector<int32_t> items;
    expect_that(streams_, "program", "one that answers", "an empty one");
    Borrow borrows[4];
    const TensorView own = borrows[3].view(profile);
    const TensorView out = borrows[0].view(exclude), allowed = borrows[1].view(allow);
    const TensorView top_scores = borrows[2].view(scores);
    if (out) expect_packed(out, "exclude", DType::i32, {kAnySize});
    expect_output(top_scores, "scores", DType::f32, {kAnySize});
    items.resize(static_cast<size_t>(top_scores.shape[0]));
    const TensorView top_items = view_of(items.data(), DType::i32, {top_scores.shape[0]});
    const SessionRequest request = {user_id(user), at,  end,     now,        leave_seen,
                                    own,           out, allowed, top_scores, top_items};
    without_gil([&] { chronorec::recommend(store_, scorer_, request); });
    const auto end_of_items = std::find(items.begin(), items.end(), -1);
    py::list found(end_of_items - items.begin());
    for (size_t i = 0; i < found.size(); ++i) found[i] = items[i];
    return found;
  }

  // Writes the answer register to `state`; returns the items of the events used as bytes.
  py::bytes query(py::handle user, int64_t at, int64_t end, int64_t now, py::handle profile,
                  py::handle state) {
    expect_that(streams_, "program", "one that answers", "an empty one");
    Borrow borrows[2];
    const TensorView own = borrows[0].view(profile), out = borrows[1].view(state);
    expect_output(out, "state", DType::f32, {scorer_.panels.shape[1]});
    const UserId id = user_id(user);
    std::vector<int32_t> seen;
    without_gil([&] { store_.query(id, at, end, now, own, out.as<float>(), seen); });
    return bytes_of(seen);
  }

  // (items, times, types) as bytes; no types where none are kept.
  py::object events(py::handle user) const {
    std::vector<int32_t> items, types;
    std::vector<int64_t> times;
    const UserId id = user_id(user);
    bool found = false;
    without_gil([&] { found = store_.events(id, items, times, types); });
    if (!found) return py::none();
    return py::make_tuple(bytes_of(items), bytes_of(times), bytes_of(types));
  }

  bool contains(py::handle user) const {
    const UserId id = user_id(user);
    bool found = false;
    without_gil([&] { found = store_.contains(id); });
    return found;
  }

  bool forget(py::handle user) {
    const UserId id = user_id(user);
    bool found = false;
    without_gil([&] { found = store_.forget(id); });
    return found;
  }

  // (ids, offsets, items, times, types) of the sessions of a shard; arrays as bytes, no types where none are
  // kept.
  py::tuple shard(int64_t number) const {
    expect_that(number >= 0 && number < store_.num_shards(), "number", store_.num_shards(), number);
    std::vector<std::string> texts;
    std::vector<UserId> users;
    std::vector<int64_t> offsets = {0}, times;
    std::vector<int32_t> items, types;
    without_gil([&] {
      store_.visit(number, [&](const UserId& user, const int32_t* item, const int64_t* time,
                               const int32_t* type, int64_t count) {
        users.push_back({user.number, {}, user.is_text});
        texts.emplace_back(user.text);
        items.insert(items.end(), item, item + count);
        times.insert(times.end(), time, time + count);
        if (type != nullptr) types.insert(types.end(), type, type + count);
        offsets.push_back(static_cast<int64_t>(items.size()));
      });
    });
    py::list ids;
    for (size_t i = 0; i < users.size(); ++i) {
      users[i].text = texts[i];
      ids.append(object_of(users[i]));
    }
    return py::make_tuple(ids, bytes_of(offsets), bytes_of(items), bytes_of(times), bytes_of(types));
  }

 private:
  template <typename T>
  static py::bytes bytes_of(const std::vector<T>& values) {
    return py::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }

  int64_t add(py::handle user, const int32_t* items, const int64_t* times, const int32_t* types,
              int64_t count, int64_t now) {
    const UserId id = user_id(user);
    int64_t events = 0;
    without_gil([&] { events = store_.append(id, items, times, types, count, now); });
    return events;
  }

  KeptViews table_;
  Scorer scorer_;
  SessionStore store_;
  bool streams_ = false;  // else only events are kept
};

inline py::dict counts_of(Sessions& self) {
  SessionCounts counts;
  without_gil([&] { counts = self.store().counts(); });
  py::dict all;
  all["sessions"] = counts.sessions;
  all["states"] = counts.states;
  all["events"] = counts.events;
  all["index_bytes"] = counts.index_bytes;
  all["state_bytes"] = counts.state_bytes;
  all["event_bytes"] = counts.event_bytes;
  all["dropped_states"] = counts.dropped_states;
  all["dropped_sessions"] = counts.dropped_sessions;
  all["state_hits"] = counts.state_hits;
  all["state_misses"] = counts.state_misses;
  return all;
}

inline std::vector<ProgramStep> steps_of(const py::list& program) {
  std::vector<ProgramStep> steps;
  for (const py::handle fields : program) {
    ProgramStep& step = steps.emplace_back();
    for (const auto& [name, value] : py::cast<py::dict>(fields)) {
      if (py::isinstance<py::str>(value))
        step.texts[py::cast<std::string>(name)] = py::cast<std::string>(value);
      if (PyLong_Check(value.ptr()) || PyFloat_Check(value.ptr()))  // a bool is a long
        step.numbers[py::cast<std::string>(name)] = py::cast<double>(value);
    }
  }
  return steps;
}

inline DType short_type(const std::string& precision, const char* what) {
  if (precision == "float32") return DType::f32;
  if (precision == "bfloat16") return DType::bf16;
  expect_that(precision == "int8", what, "float32, bfloat16 or int8", precision);
  return DType::u8;
}

// None where no state can be kept from event to event.
inline std::unique_ptr<KeptProgram> streaming_program(const py::list& program, const py::dict& weights,
                                                      int64_t max_length,
                                                      const std::string& recurrent_weights,
                                                      const std::string& states) {
  const std::vector<ProgramStep> steps = steps_of(program);
  if (!keeps_a_state(steps, max_length)) return nullptr;
  const DType rounded = short_type(states, "states");
  expect_that(rounded != DType::u8, "states", "float32 or bfloat16", states);
  auto kept = std::make_unique<KeptProgram>(rounded);
  WeightViews views;
  for (const auto& [name, array] : weights)
    views[py::cast<std::string>(name)] = kept->weights.view(py::reinterpret_borrow<py::object>(array));
  build_program(steps, views, short_type(recurrent_weights, "recurrent_weights"), kept->packed,
                kept->program);
  return kept;
}

inline void replay_histories(const KeptProgram& kept, py::handle items, py::handle offsets, py::handle times,
                             py::handle at, py::handle types, py::handle profile, py::handle answers) {
  Borrow borrows[7];
  const ReplayArgs args = {borrows[0].view(items),  borrows[1].view(offsets), borrows[2].view(times),
                           borrows[3].view(at),     borrows[4].view(types),   borrows[5].view(profile),
                           borrows[6].view(answers)};
  without_gil([&] { replay(kept.program, args); });
}

inline void define_engine(py::module_& module) {
  py::class_<KeptProgram>(module, "Program")
      .def(py::init<>())
      .def_static("streaming", &streaming_program)
      .def("replay", &replay_histories);

  py::class_<Sessions>(module, "Sessions")
      .def(py::init<const KeptProgram&, const py::object&, int64_t, const py::object&, const py::object&,
                    const py::object&, int64_t, int64_t, bool>(),
           py::keep_alive<1, 2>())
      .def("append", &Sessions::append)
      .def("append_one", &Sessions::append_one)
      .def("recommend", &Sessions::recommend)
      .def("query", &Sessions::query)
      .def("events", &Sessions::events)
      .def("contains", &Sessions::contains)
      .def("forget", &Sessions::forget)
      .def_property_readonly("num_shards", [](Sessions& self) { return self.store().num_shards(); })
      .def("shard", &Sessions::shard)
      .def("counts", &counts_of);
}

}  // namespace chronorec

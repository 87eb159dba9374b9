// A model folder, as `chronorec train` writes it, in a C++ program without Python:
//
//   chronorec::Model model("model");
//   chronorec::SessionStore sessions(model.program(), 1 << 30, 0, model.program().reads_types());
//   sessions.append(user, items, times, types, count, now);
//   chronorec::recommend(sessions, model.scorer(), request);
//
// Items are codes: rows of the folder's items.arrow; types are places in model.json's event_types. Models
// that keep no state from event to event are refused, as are damaged files; hashes are not looked at.
#pragma once
#include <memory>
#include <string>

#include "engine/program.h"
#include "engine/scorer.h"

namespace chronorec {

class Model {
 public:
  // weights: of recurrent layers are held in f32, bf16 or u8; states: of sessions in f32 or bf16.
  // Throws std::runtime_error that names the file and what is wrong with it.
  explicit Model(const std::string& folder, DType weights = DType::f32, DType states = DType::f32);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Program& program() const;
  const Scorer& scorer() const;
  // Whether the items of a history leave the answer unless a request says otherwise.
  bool leave_seen() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace chronorec
